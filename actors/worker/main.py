"""The process that hosts one native engine: `python -m actors.worker.main DESCRIPTOR MODULE:CLASS PARENT CORES`.

Decides the order of commands and steps, all on one thread. It dies with its parent, and it must not know Ray,
requests or text. It may run in an environment that is not ours: only the standard library is imported before the engine.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import socket
import sys
from collections.abc import Iterator

from ..errors import EngineError, LoadFailed
from .frames import (
    FrameReader,
    Kind,
    aborted,
    added,
    config_of,
    loaded_frame,
    progress_frame,
    step_frame,
    trouble_frame,
)
from .stepper import Row, Stepper

_PR_SET_PDEATHSIG = 1
_CHUNK_BYTES = 1 << 18


class Worker:
    """Serves one parent over one socket until it is told to close or the parent is gone."""

    def __init__(self, link: socket.socket, stepper: Stepper) -> None:
        self._link = link
        self._stepper = stepper
        self._reader = FrameReader()

    def run(self) -> None:
        """Loads, then serves."""
        with contextlib.suppress(_Closed):
            self._load()
            while True:
                self._turn()

    def _load(self) -> None:
        kind, payload = next(iter(self._commands(wait=True)))
        if kind != Kind.LOAD:
            raise _Closed
        try:
            self._stepper.load(config_of(payload), lambda f: self._send(progress_frame(f)))
        except LoadFailed as error:
            self._send(trouble_frame(Kind.LOAD_FAILED, error.message, error.hint))
            raise _Closed from None
        except Exception as error:  # noqa: BLE001 - whatever a native library raises; the parent logs it
            self._send(trouble_frame(Kind.LOAD_FAILED, _first_line(error)))
            raise _Closed from None
        self._send(loaded_frame(self._stepper.capabilities()))

    def _turn(self) -> None:
        """One round: what the parent wants, one step, one answer."""
        freed = False
        for kind, payload in self._commands(wait=not self._stepper.busy()):
            self._obey(kind, payload)
            freed = freed or kind == Kind.ABORT
        if freed and self._stepper.busy():  # whoever counts free places need not wait for a step
            self._send(step_frame([], self._stepper.stats()))
        rows = self._stepper.step() if self._stepper.busy() else []
        for row in rows:
            if row.error:
                self._fail(row)
        good = [row for row in rows if not row.error]
        self._send(step_frame(good, self._stepper.stats()))

    def _obey(self, kind: int, payload: bytes) -> None:
        if kind == Kind.ADD:
            sequence, prompt_ids, sampling = added(payload)
            try:
                self._stepper.add(sequence, prompt_ids, sampling)
            except EngineError as error:
                self._fail(Row(sequence, (), error=error.message))
        elif kind == Kind.ABORT:
            self._stepper.abort(aborted(payload))
        elif kind == Kind.CLOSE:
            raise _Closed

    def _fail(self, row: Row) -> None:
        self._send(trouble_frame(Kind.FAILED, row.error, sequence=row.sequence))

    def _commands(self, *, wait: bool) -> Iterator[tuple[int, bytes]]:
        """What has arrived; with `wait` at least one command."""
        found: list[tuple[int, bytes]] = []
        while not found:
            try:
                data = self._link.recv(_CHUNK_BYTES, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not data:
                raise _Closed
            found += self._reader.feed(data)
        return iter(found)

    def _send(self, data: bytes) -> None:
        try:
            self._link.sendall(data)
        except OSError:
            raise _Closed from None


class _Closed(Exception):
    """The parent wants no more, or is gone."""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:500]}"


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the request was in place
        os._exit(1)


def _bind(cores: str) -> None:
    """Keeps this process, and the threads that libraries will start, on some logical CPUs; empty = on any."""
    wanted = {int(core) for core in cores.split(",") if core}
    try:
        if wanted:
            os.sched_setaffinity(0, wanted)
    except OSError as error:
        sys.stderr.write(f"cores {cores} cannot be used, so any are: {error}\n")


def _stepper(target: str) -> Stepper:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)()


def main(arguments: list[str]) -> None:
    """Entry point: descriptor of the socket, what to host, process id of the parent, logical CPUs by comma."""
    descriptor, target, parent, cores = arguments
    _die_with_parent(int(parent))
    _bind(cores)
    # Ctrl-C reaches the whole process group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # native libraries print; only frames and errors are of interest
    with socket.socket(fileno=int(descriptor)) as link:
        Worker(link, _stepper(target)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
