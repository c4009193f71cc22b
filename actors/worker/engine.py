"""An engine in a child process: the parent's side.

Decides the life of that process and who gets which ids. The process stays in the group of its parent, dies with it,
and its end fails every running sequence at once. It must not know which engine it hosts, nor Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import structlog

from .. import environments
from ..engine import Capabilities, Chunk, EngineConfig, EngineRequest, EngineStats, FinishReason
from ..errors import EngineCrashed, EngineError, LoadFailed
from ..process_tree import tree
from .frames import (
    FrameReader,
    Kind,
    abort_frame,
    add_frame,
    capabilities_of,
    frame,
    load_frame,
    progressed,
    stepped,
    trouble,
)
from .process import WorkerProcess

log = structlog.get_logger()

WORKER_STARTED = "worker.started"
WORKER_LOST = "worker.lost"
WORKER_ENDED = "worker.ended"

LOAD_DEADLINE_S = 900.0

LINGER_S = 0.5
"""After its process has ended, what that sent last is still taken."""

QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Idle compute threads sleep, as other engines need their cores; what the operator sets counts."""

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432"}
"""Large allocations ask for huge pages, and those below 32 MiB lie side by side, or half of each would stay on small ones.
Each decode step reads all weights, and on small pages address translation takes a tenth to a fifth of it. Without effect on
other C libraries, and where the system gives none."""


def variables(config: EngineConfig, environment: str = "") -> dict[str, str]:
    """The variables of an engine's process: ours, with its own devices and no others in sight, and its number of threads.

    Args:
        environment: name of the environment that it lives in; empty = ours.
    """
    kept = {name: value for name, value in os.environ.items() if name not in config.unset}
    # Whoever started us may have set a number of threads of its own, as Ray does.
    threads = {"OMP_NUM_THREADS": str(config.threads)} if config.threads else {}
    its_own = environments.variables(environment) if environment else {}
    return QUIET | HUGE_PAGES | kept | threads | {**its_own} | dict(config.environment)


def _interpreter(engine: str, environment: str) -> Path | None:
    """The Python of an environment; None = ours."""
    if not environment:
        return None
    if trouble := environments.trouble(environment):
        raise LoadFailed(f"engine {engine}: {trouble.reason}", hint=trouble.hint)
    return environments.interpreter(environment)


class WorkerEngine:
    """See `Engine`. One object hosts one process once; it is not started again after it ended.

    Args:
        name: the engine's name.
        target: what the process hosts, a `Stepper` as `module:class`.
        environment: name of the environment that it lives in (actors.environments); empty = ours.
    """

    def __init__(
        self,
        name: str,
        target: str,
        environment: str = "",
        *,
        load_deadline_s: float = LOAD_DEADLINE_S,
    ) -> None:
        self.name = name
        self._target = target
        self._environment = environment
        self._load_deadline_s = load_deadline_s
        self._process: WorkerProcess | None = None
        self._link: _Link | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process id, once there is one."""
        return self._process.pid if self._process else None

    @property
    def capabilities(self) -> Capabilities:
        """See `Engine`."""
        return self._link.capabilities if self._link else Capabilities()

    async def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Engine`."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = self._started(config, ours, theirs)
        log.info(WORKER_STARTED, engine=self.name, pid=self._process.pid)
        self._link = _Link(self.name, self._process, progress)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._link, sock=ours)
        try:
            async with asyncio.timeout(self._load_deadline_s):
                await self._link.load(config)
        except TimeoutError:
            await self.close()
            raise LoadFailed(
                f"engine {self.name} did not load within {self._load_deadline_s:g} s",
                hint="look at the node's load and disk, then apply again",
            ) from None
        except BaseException:
            await self.close()
            raise

    def _started(
        self, config: EngineConfig, ours: socket.socket, theirs: socket.socket
    ) -> WorkerProcess:
        loop = asyncio.get_running_loop()

        def ended() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
                loop.call_soon_threadsafe(loop.call_later, LINGER_S, self._cut)

        try:
            return WorkerProcess(
                self._target,
                theirs,
                variables(config, self._environment),
                cores=config.cores,
                interpreter=_interpreter(self.name, self._environment),
                log_path=config.log_path,
                on_end=ended,
            )
        except OSError as error:
            ours.close()
            name = self._environment
            hint = "look at the node's limits of processes, memory and open files"
            raise LoadFailed(
                f"engine {self.name}: its process could not be started: {error}",
                hint=f"shardyard env create {name} --force" if name else hint,
            ) from None
        except BaseException:
            ours.close()
            raise

    def _cut(self) -> None:
        """The process has ended; what it started may hold the socket open, and would for ever."""
        if self._link is not None:
            self._link.cut()

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        """See `Engine`. Waits as long as the process lives: deadlines are the caller's."""
        link = self._link
        if link is None:
            raise EngineError(f"engine {self.name} is not loaded")
        number, sequence = link.open(request)
        try:
            while True:
                chunk = await sequence.next()
                yield chunk
                if chunk.finish is not None:
                    return
        finally:
            link.forget(number, sequence)

    async def abort(self, request: str) -> None:
        """See `Engine`."""
        if self._link is not None:
            self._link.abort(request)

    async def stats(self) -> EngineStats:
        """The load as of the last step."""
        return self._link.stats if self._link else EngineStats()

    def health(self) -> str:
        """See `Engine`."""
        if self._link is None or not (self._link.loaded or self._link.lost):
            return f"engine {self.name} is not loaded"
        return self._link.crashed().message if self._link.lost else ""

    def processes(self) -> tuple[int, ...]:
        """See `Engine`."""
        return tree(self._process.pid) if self._process and not self._process.ended else ()

    async def close(self) -> None:
        """Asks the process to end, then makes it."""
        if self._link is not None:
            self._link.close()
        if self._process is not None and await self._process.end():
            log.info(WORKER_ENDED, engine=self.name, pid=self._process.pid)


class _Sequence:
    """What arrived for one request and was not taken yet; bounded by the window."""

    __slots__ = ("_error", "_finish", "_ids", "_waiter", "request")

    def __init__(self, request: str) -> None:
        self.request = request
        self._ids: tuple[int, ...] = ()
        self._finish: FinishReason | None = None
        self._error: EngineError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        return self._finish is not None or self._error is not None

    def put(self, ids: tuple[int, ...], finish: FinishReason | None) -> None:
        self._ids = self._ids + ids if self._ids else ids
        self._finish = finish
        self._wake()

    def fail(self, error: EngineError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> Chunk:
        """What is there, or the next that arrives. Ids that arrived before a failure come first."""
        while not self._ids and not self.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None and not self._ids:
            raise self._error
        chunk = Chunk(self._ids, self._finish)
        self._ids = ()
        return chunk


class _Ended(Exception):
    """The process went before it was loaded."""


class _Link(asyncio.Protocol):
    """The parent's end of the socket."""

    def __init__(
        self, engine: str, process: WorkerProcess, progress: Callable[[float], None]
    ) -> None:
        self._engine = engine
        self._process = process
        self._progress = progress
        self._reader = FrameReader()
        self._sequences: dict[int, _Sequence] = {}
        self._last = 0
        self._loading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.WriteTransport | None = None
        self.stats = EngineStats()
        self.capabilities = Capabilities()
        self.loaded = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        for kind, payload in self._reader.feed(data):
            self._receive(kind, payload)

    def _receive(self, kind: int, payload: bytes) -> None:
        if kind == Kind.STEP:
            rows, self.stats = stepped(payload)
            for row in rows:
                sequence = self._sequences.get(row.sequence)
                if sequence is not None and not sequence.ended:
                    sequence.put(row.ids, row.finish)
        elif kind == Kind.FAILED:
            number, message, hint = trouble(payload)
            if number in self._sequences:
                self._sequences[number].fail(EngineError(message, hint=hint))
        elif kind == Kind.PROGRESS:
            self._progress(progressed(payload))
        elif not self._loading.done():
            self._finish_load(kind, payload)

    def _finish_load(self, kind: int, payload: bytes) -> None:
        if kind == Kind.LOADED:
            self.capabilities = capabilities_of(payload)
            self.loaded = True
            self._loading.set_result(None)
        elif kind == Kind.LOAD_FAILED:
            _, message, hint = trouble(payload)
            self._loading.set_exception(LoadFailed(f"engine {self._engine}: {message}", hint=hint))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self._loading.done():
            self._loading.set_exception(_Ended())
        if self._sequences:
            log.error(WORKER_LOST, engine=self._engine, printed=self._process.printed()[-20:])
        for sequence in self._sequences.values():
            sequence.fail(self.crashed())

    def crashed(self) -> EngineCrashed:
        """What whoever still waits is told."""
        return EngineCrashed(
            f"engine {self._engine} (process {self._process.pid}) ended{self._process.last_words()}",
            hint="the replica is started again by itself",
        )

    async def load(self, config: EngineConfig) -> None:
        self._write(load_frame(config))
        try:
            await self._loading
        except _Ended:
            await self._process.ended_within(LINGER_S)  # its last words come beside the socket
            words = self._process.last_words()
            raise LoadFailed(
                f"the process of engine {self._engine} ended while it loaded{words}",
                hint="see the log of its replica",
            ) from None

    def open(self, request: EngineRequest) -> tuple[int, _Sequence]:
        if self.lost:
            raise self.crashed()
        self._last = self._last % 0xFFFF_FFFF + 1
        added = add_frame(self._last, request.prompt_ids, request.sampling)
        sequence = self._sequences[self._last] = _Sequence(request.id)
        self._write(added)
        return self._last, sequence

    def abort(self, request: str) -> None:
        for number, sequence in self._sequences.items():
            if sequence.request == request and not sequence.ended:
                sequence.put((), "abort")
                self._write(abort_frame(number))

    def forget(self, number: int, sequence: _Sequence) -> None:
        del self._sequences[number]
        if not sequence.ended:
            self._write(abort_frame(number))

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        self._write(frame(Kind.CLOSE))
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
