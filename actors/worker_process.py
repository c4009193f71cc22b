"""The life of a worker's process: started in our own process group, asked to end, then made to.

It must not know what the process serves.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path

CLOSE_DEADLINE_S = 2.0
TERMINATE_DEADLINE_S = 1.0
KEPT_LINES = 100
_ROOT = Path(__file__).resolve().parent.parent


class WorkerProcess:
    """A child process that serves a `Stepper`, and a thread that keeps its last words and reaps it.

    Start it from a thread that lives as long as this process: the kernel ends the child with that thread.

    Args:
        target: what to host, as `module:class`.
        theirs: its end of the socket; the caller closes its own copy.
        env: its environment, to which the path of our packages is added.
    """

    def __init__(self, target: str, theirs: socket.socket, env: Mapping[str, str]) -> None:
        descriptor = theirs.fileno()
        # `-P` keeps a user's folder called `actors/` in the working directory from standing in for ours.
        self._popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [
                sys.executable,
                "-P",
                "-m",
                "actors.worker_main",
                str(descriptor),
                target,
                str(os.getpid()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(descriptor,),
            env={**env} | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])},
        )
        self.pid = self._popen.pid
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._reaper = threading.Thread(target=self._listen, daemon=True, name=f"worker-{self.pid}")
        self._reaper.start()

    def _listen(self) -> None:
        stream = self._popen.stderr
        assert stream is not None
        with stream:
            while line := stream.readline(4096):
                self._lines.append(line.decode(errors="replace").rstrip())
        self._popen.wait()

    def last_words(self) -> str:
        """How it ended and what it printed last, as the end of a sentence."""
        code = self._popen.returncode
        how = "" if code is None else f" with {f'signal {-code}' if code < 0 else f'status {code}'}"
        return how + (f": {self._lines[-1][:500]}" if self._lines else "")

    def printed(self) -> list[str]:
        """The last lines of its standard error."""
        return list(self._lines)

    async def end(self) -> bool:
        """Waits for the end, harder each time; False when it had ended before."""
        if not self._reaper.is_alive():
            return False
        try:
            if not await self._ended(CLOSE_DEADLINE_S):
                self._popen.terminate()
                await self._ended(TERMINATE_DEADLINE_S)
        finally:  # also when the wait itself is cancelled
            self._popen.kill()
        await self._ended(CLOSE_DEADLINE_S)
        return True

    async def _ended(self, deadline_s: float) -> bool:
        await asyncio.to_thread(self._reaper.join, deadline_s)
        return not self._reaper.is_alive()
