"""A vendor's own OpenAI server as an engine: started, proved, asked and ended.

Decides when a failure is the server's end and when only one request's. It must not know the vendor, nor Ray.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path

import structlog

from ..engine import Capabilities, Chunk, EngineConfig, EngineRequest, EngineStats
from ..environments import interpreter, variables
from ..errors import EngineCrashed, EngineError, LoadFailed
from ..openai.events import Disconnected, Unreachable
from ..openai.stream import OpenAIClient
from .endings import last_line, meaning
from .launch import Launch, launch
from .metrics import Scrape
from .process import ServerProcess
from .proof import Proof, last_words
from .spec import Server

log = structlog.get_logger()

SERVER_STARTED = "server.started"
SERVER_READY = "server.ready"
SERVER_LOST = "server.lost"
SERVER_ENDED = "server.ended"

LOAD_DEADLINE_S = 900.0
GRACE_S = 5.0
DEATH_WAIT_S = 0.5
"""After a broken answer: time in which the server's end would show."""
UNREACHED_IN_A_ROW = 3
"""A server that lives and whose door is shut as often, with no answer between, does not open it again."""


class ServerEngine:
    """See `Engine`. One object hosts one server once; it is not started again after it ended.

    Args:
        server: the vendor's, as data.
        grace_s: between asking it to end and making it.
        find: path of the interpreter of an environment; None = it is not built.
    """

    def __init__(
        self,
        server: Server,
        *,
        load_deadline_s: float = LOAD_DEADLINE_S,
        grace_s: float = GRACE_S,
        find: Callable[[str], Path | None] = interpreter,
        recipe: Callable[[str], Mapping[str, str]] = variables,
    ) -> None:
        self.name = server.name
        self.capabilities = Capabilities()
        self._server = server
        self._load_deadline_s = load_deadline_s
        self._grace_s = grace_s
        self._find = find
        self._recipe = recipe
        self._process: ServerProcess | None = None
        self._client: OpenAIClient | None = None
        self._scrape: Scrape | None = None
        self._proof: Proof | None = None
        self._fault = "it is not loaded"
        self._unreached = 0

    # -- loading ------------------------------------------------------------------------------------------------

    async def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Engine`. The done fraction counts stages, as no server tells how far it is."""
        if self._process is not None:
            raise LoadFailed(f"engine {self.name} was started before")
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._load_deadline_s):
                await self._load(config, progress)
        except TimeoutError:
            await self.close()
            raise self._late() from None
        except BaseException:
            await self.close()
            raise
        self._fault = ""
        log.info(SERVER_READY, engine=self.name, after_s=round(time.monotonic() - started, 1))

    async def _load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        name = self._server.environment
        python = self._find(name) if name else Path(sys.executable)
        if python is None:
            raise LoadFailed(
                f"the environment {name!r} of engine {self.name} is not built",
                hint=f"shardyard env create {name}",
            )
        planned = launch(self._server, config, python, self._recipe(name) if name else {})
        self._process = process = self._supervised(planned, config)
        log.info(SERVER_STARTED, engine=self.name, pid=process.pid)
        progress(0.05)
        self._client = client = self._connect(planned, config)
        self._proof = Proof(self.name, planned, client, process, self._server.endings)
        await self._proof.run(config, progress)
        self.capabilities = self._server.capabilities(config)
        self._scrape = Scrape(client, f"{planned.base_url}/metrics", self._server.metrics)
        progress(1.0)

    def _supervised(self, planned: Launch, config: EngineConfig) -> ServerProcess:
        try:
            return ServerProcess(planned.order(config, self._grace_s), planned.mark)
        except OSError as error:
            planned.discard()
            raise LoadFailed(
                f"engine {self.name}: no process for its supervisor: {error.strerror}",
                hint="look at the node's limits of processes and open files",
            ) from None

    def _connect(self, planned: Launch, config: EngineConfig) -> OpenAIClient:
        return OpenAIClient(
            name=f"engine {self.name}",
            base_url=f"{planned.base_url}/v1",
            model=planned.served,
            dialect=self._server.dialect,
            connector=planned.connector(),
            headers={"Authorization": f"Bearer {planned.key}"},
            window=config.window,
            vocab=config.facts.vocab,
            eos_ids=config.eos_ids,
        )

    def _late(self) -> LoadFailed:
        lines = self._process.ended.lines if self._process else ()
        stage = self._proof.stage if self._proof else "it was not started"
        return LoadFailed(
            f"engine {self.name} was not ready within {self._load_deadline_s:g} s:"
            f" {stage}{last_line(lines)}",
            hint="look at its log and at the node's load and disk, then apply again",
        )

    # -- serving ------------------------------------------------------------------------------------------------

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        """See `Engine`. Waits as long as the server lives: deadlines are the caller's."""
        client, process = self._client, self._process
        if client is None or process is None or self._scrape is None:
            raise EngineError(f"engine {self.name} is not loaded")
        if process.died.is_set() or self._fault:
            raise await self._crashed(process)
        try:
            async with aclosing(client.generate(request)) as chunks:
                async for chunk in chunks:
                    self._unreached = 0
                    yield chunk
        except EngineError as error:
            if await self._fatal(error, process):
                raise await self._crashed(process) from None
            raise

    async def _fatal(self, error: EngineError, process: ServerProcess) -> bool:
        """Whether the whole server is done for, not only this request."""
        dead = self._server.dialect.dead
        if dead and re.search(dead, error.message):
            self._fault = error.message
            return True
        if isinstance(error, Disconnected) or error.fields.get("status", 0) >= 500:
            with suppress(TimeoutError):
                await asyncio.wait_for(process.died.wait(), DEATH_WAIT_S)
        if process.died.is_set():
            return True
        self._unreached = self._unreached + 1 if isinstance(error, Unreachable) else 0
        if self._unreached >= UNREACHED_IN_A_ROW:
            self._fault = "it lives, but nobody listens at its address any more"
        return bool(self._fault)

    async def _crashed(self, process: ServerProcess) -> EngineCrashed:
        reason, hint = self._fault, ""
        if process.died.is_set():
            reason, hint = await last_words(process, self._server.endings)
        if self._fault != reason:
            self._fault = reason
            log.error(SERVER_LOST, engine=self.name, pid=process.server_pid, reason=reason)
        return EngineCrashed(
            f"engine {self.name}: {reason}", hint=hint or "the replica is started again by itself"
        )

    async def abort(self, request: str) -> None:
        """See `Engine`."""
        if self._client is not None:
            await self._client.abort(request)

    async def stats(self) -> EngineStats:
        """The load, as the server's own metrics say, at most a second old."""
        return await self._scrape.stats() if self._scrape else EngineStats()

    def health(self) -> str:
        """See `Engine`."""
        process = self._process
        if not self._fault and process is not None and process.died.is_set():
            return meaning(process.ended, self._server.endings)[0]
        return self._fault

    def processes(self) -> tuple[int, ...]:
        """See `Engine`. The supervisor is one of them."""
        return self._process.processes() if self._process else ()

    async def close(self) -> None:
        """Ends the server, its process tree and its folder; bounded to the grace and a few seconds."""
        self._fault = self._fault or "it is closed"
        client, self._client, self._scrape = self._client, None, None
        if client is not None:
            await client.close()
        if self._process is not None and not self._process.gone.is_set():
            ended = await self._process.end()
            log.info(SERVER_ENDED, engine=self.name, pid=self._process.pid, left=ended.left)
