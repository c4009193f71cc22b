"""The life of a vendor's server, seen from the replica: a supervisor beside it that is told to start and to end it.

Decides what is done when the supervisor itself is lost. It must not know what the server serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from .. import orphans
from ..process_tree import tree
from .endings import Ended
from .main import CLOSE, KILL_DEADLINE_S

_ROOT = Path(__file__).resolve().parents[2]
_HANDED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
_SLACK_S = 2.0
_LONGEST_WORD = 1 << 20


class ServerProcess:
    """A supervised server. A thread listens to the supervisor and reaps it; what it tells is taken over on the loop.

    Args:
        order: see `actors.server.main.Supervisor`.
        mark: by which its processes are found when the supervisor is lost.
    """

    def __init__(self, order: dict[str, Any], mark: orphans.Mark) -> None:
        self._order = order
        self._mark = mark
        self._loop = asyncio.get_running_loop()
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-S", "-m", "actors.server.main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env={name: os.environ[name] for name in _HANDED_ON if name in os.environ}
            | {"PYTHONPATH": str(_ROOT), orphans.MARK: mark.text},
        )
        self.pid = self._popen.pid
        self.server_pid: int | None = None
        self.died = asyncio.Event()
        """Set once the server has ended, or nobody watches over it."""
        self.gone = asyncio.Event()
        """Set once nothing of it is left."""
        self.ended = Ended()
        """How it ended; settled when `gone` is set."""
        self._ordered = False
        self._thread = threading.Thread(target=self._listen, daemon=True, name=f"server-{self.pid}")
        self._thread.start()

    def processes(self) -> tuple[int, ...]:
        """The supervisor and everything below it."""
        return () if self.gone.is_set() else tree(self.pid)

    async def end(self) -> Ended:
        """Ends it, and waits until nothing is left; bounded to the grace and a few seconds."""
        if not self.gone.is_set():
            self._ask()
            if not await self._within(self._order["grace_s"] + KILL_DEADLINE_S + _SLACK_S):
                self._popen.kill()
                await self._within(orphans.END_DEADLINE_S + _SLACK_S)
        return self.ended

    def _ask(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._ordered:
                self._pipe(self._popen.stdin).write(CLOSE)
            else:
                self._popen.kill()  # it has started nothing yet

    async def _within(self, deadline_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), deadline_s)
        return self.gone.is_set()

    # -- the thread ---------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        words = self._pipe(self._popen.stdout)
        told: Ended | None = None
        with self._pipe(self._popen.stdin), words:
            self._command()
            reader = os.fdopen(os.dup(words.fileno()), "rb")
            with reader:
                while line := reader.readline(_LONGEST_WORD):
                    told = self._heard(line) or told
            self._popen.wait()
        if told is None:
            self._post(self.died.set)
            orphans.end(self._mark)
        self._post(self._over, told or Ended(lines=("its supervisor was killed",)))

    def _command(self) -> None:
        line = json.dumps(self._order).encode() + b"\n"
        with contextlib.suppress(OSError):
            left = memoryview(line)
            while left:
                left = left[self._pipe(self._popen.stdin).write(left) or 0 :]
            self._ordered = True

    def _heard(self, line: bytes) -> Ended | None:
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            return None  # the interpreter's own words
        if kind == "started":
            self._post(self._has_started, event["pid"])
        elif kind == "died":
            self._post(self.died.set)
        elif kind == "ended":
            return Ended(
                status=event["status"], lines=tuple(event["lines"]), left=tuple(event["left"])
            )
        return None

    def _post(self, call: Any, *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(call, *arguments)

    @staticmethod
    def _pipe(pipe: Any) -> Any:
        assert pipe is not None
        return pipe

    # -- on the loop --------------------------------------------------------------------------------------------

    def _has_started(self, pid: int) -> None:
        self.server_pid = pid

    def _over(self, ended: Ended) -> None:
        self.ended = ended
        self.died.set()
        self.gone.set()
