"""The life of a worker's process: started in our own process group, asked to end, then made to.

It must not know what the process serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from ..server.log import ServerLog, secrets_of
from . import foreign_main as environment_main

CLOSE_DEADLINE_S = 2.0
TERMINATE_DEADLINE_S = 1.0
_LOOK_MS = 500
"""Between two looks at whether it has ended: somebody that it started may hold its standard error open."""
_CHUNK = 1 << 16
_MOST_LEFT = 64
"""Chunks that are taken after its end."""
_ROOT = Path(__file__).resolve().parents[2]
_MODULE = "actors.worker.main"
_PATHS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class WorkerProcess:
    """A child process that serves a `Stepper`, and a thread that keeps its last words and reaps it.

    Start it from a thread that lives as long as this process: the kernel ends the child with that thread.

    Args:
        target: what to host, as `module:class`.
        theirs: its end of the socket; the caller closes its own copy.
        env: its environment variables.
        cores: logical CPUs that it is bound to before anything is loaded; empty = any.
        interpreter: Python of the environment that it lives in; None = ours.
        log_path: file for what it prints; empty = the last lines are kept only.
        on_end: called in the thread once it has ended, whoever still holds its end of the socket.
    """

    def __init__(
        self,
        target: str,
        theirs: socket.socket,
        env: Mapping[str, str],
        *,
        cores: Sequence[int] = (),
        interpreter: Path | None = None,
        log_path: str = "",
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        descriptor = theirs.fileno()
        arguments = (str(descriptor), target, str(os.getpid()), ",".join(map(str, cores)))
        words, variables = (
            _ours(env, arguments) if interpreter is None else _foreign(env, arguments, interpreter)
        )
        self._popen = subprocess.Popen(  # noqa: S603 - an interpreter of ours or of an environment, and our own module
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(descriptor,),
            env=variables,
        )
        self.pid = self._popen.pid
        self._on_end = on_end
        self._log = ServerLog(log_path, secrets_of(env))
        self._reaper = threading.Thread(target=self._listen, daemon=True, name=f"worker-{self.pid}")
        self._reaper.start()

    def _listen(self) -> None:
        stream = self._popen.stderr
        assert stream is not None
        with stream:
            self._read(stream)
        self._popen.wait()
        self._log.end()
        self._on_end()

    def _read(self, stream: IO[bytes]) -> None:
        """Takes what it prints until it has ended or prints no more."""
        printed = stream.fileno()
        waiting = select.poll()
        waiting.register(printed, select.POLLIN)
        while self._popen.poll() is None:
            if not waiting.poll(_LOOK_MS):
                self._log.rest()
            elif data := os.read(printed, _CHUNK):
                self._log.feed(data)
            else:
                return
        os.set_blocking(printed, False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MOST_LEFT):
                self._log.feed(os.read(printed, _CHUNK))

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._popen.returncode is not None

    def last_words(self) -> str:
        """How it ended and what it printed last, as the end of a sentence."""
        code = self._popen.returncode
        how = "" if code is None else f" with {f'signal {-code}' if code < 0 else f'status {code}'}"
        lines = self._log.lines
        return how + (f": {lines[-1][:500]}" if lines else "")

    def printed(self) -> list[str]:
        """The last lines of its standard error."""
        return self._log.lines

    async def end(self) -> bool:
        """Waits for the end, harder each time; False when it had ended before."""
        if not self._reaper.is_alive():
            return False
        try:
            if not await self.ended_within(CLOSE_DEADLINE_S):
                self._popen.terminate()
                await self.ended_within(TERMINATE_DEADLINE_S)
        finally:  # also when the wait itself is cancelled
            self._popen.kill()
        await self.ended_within(CLOSE_DEADLINE_S)
        return True

    async def ended_within(self, deadline_s: float) -> bool:
        """Whether it has ended and said its last words, at the latest after so many seconds."""
        await asyncio.to_thread(self._reaper.join, deadline_s)
        return not self._reaper.is_alive()


def _ours(env: Mapping[str, str], arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Command and variables of a process in our own environment, which sees what we see."""
    path = os.pathsep.join([str(_ROOT), *filter(None, sys.path)])
    # `-P` keeps a user's folder called `actors/` in the working directory from standing in for ours.
    words = [sys.executable, "-P", "-m", _MODULE, *arguments]
    return words, {**env} | {"PYTHONPATH": path}


def _foreign(
    env: Mapping[str, str], arguments: Sequence[str], interpreter: Path
) -> tuple[list[str], dict[str, str]]:
    """Command and variables of a process in another environment, which sees our three packages and nothing else of ours."""
    kept = {name: value for name, value in env.items() if name not in _PATHS}
    return environment_main.command(str(interpreter), _MODULE, *arguments), kept
