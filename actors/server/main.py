"""The supervisor of a vendor's server: `python -P -m actors.server.main`, one small process beside each replica.

Decides how the server's whole process tree lives and ends: it is the parent of whatever detaches itself, it reads what the
tree prints, and it ends the tree when it is told to, when the server ends, and when its owner is gone. Its order comes as one
line of JSON on standard input, which stays open as long as the owner lives; what it has to say goes to standard output, a line of
JSON each. Standard library only. It must not know engines or requests.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

from ..process_tree import TIDY_S, below, everybody, tidies, tree
from .log import ServerLog, secrets_of
from .segments import Segments

CLOSE = b"close\n"
ORPHAN_GRACE_S = 0.5
"""For a server whose owner is gone: nobody waits for it to tidy up, and its devices are wanted."""
KILL_DEADLINE_S = 5.0
_LOOK_S = 0.5
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CHUNK = 1 << 16
_LONGEST_QUOTE = 1000
_LIBC = ctypes.CDLL(None)


class Supervisor:
    """One server's tree from its start to its end.

    Args:
        order: `argv`, `environment`, `folder` (removed at the end), `directory` (to run in), `owner` (process id), `grace_s`,
            `log_path`, `cores`, `secrets` (texts that must not be logged).
        rest: what was read of standard input beyond the order.
        say: takes what the owner is to be told.
    """

    def __init__(self, order: dict[str, Any], rest: bytes, say: Callable[..., None]) -> None:
        self._order = order
        self._heard = rest
        self._say = say
        self._log = ServerLog(
            order["log_path"], [*order["secrets"], *secrets_of(order["environment"])]
        )
        self._selector = selectors.DefaultSelector()
        self._server = 0
        self._status: int | None = None
        self._deadline: float | None = None
        self._output = -1
        self._segments = Segments()

    def run(self) -> None:
        """Starts the server and returns when nothing of it is left."""
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        waking, woken = socket.socketpair()
        for end in (waking, woken):
            end.setblocking(False)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._ask(self._order["grace_s"]))
        for signal_of_a_terminal in (signal.SIGINT, signal.SIGHUP):  # the owner decides
            signal.signal(signal_of_a_terminal, signal.SIG_IGN)
        self._selector.register(waking, selectors.EVENT_READ, lambda: waking.recv(_CHUNK))
        self._selector.register(0, selectors.EVENT_READ, self._hear)
        try:
            self._start()
            self._obey()
            while self._status is None and not self._overdue():
                self._turn()
        finally:
            self._finish()

    # -- life ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._output, theirs = os.pipe()
        os.set_blocking(self._output, False)
        try:
            server = subprocess.Popen(  # noqa: S603 - the vendor's command, as its engine wrote it
                self._order["argv"],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                env=self._order["environment"],
                cwd=self._order["directory"],
                preexec_fn=self._prepare,  # noqa: PLW1509 - this process has one thread
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._status = 127
            self._log.feed(f"it could not be started: {error}\n".encode())
            return
        finally:
            os.close(theirs)
        self._server = server.pid
        server.returncode = 0  # `_reap` waits for it, as for everybody else
        self._selector.register(self._output, selectors.EVENT_READ, self._read)
        self._say(event="started", pid=self._server)

    def _prepare(self) -> None:
        """In the child: it ends with this process, and stays on its cores."""
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if self._order["cores"]:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._order["cores"])

    def _turn(self) -> None:
        ready = self._selector.select(_LOOK_S)
        for key, _ in ready:
            key.data()
        if not ready:
            self._log.rest()
        self._segments.look(lambda: tree(os.getpid()))
        self._reap()
        if os.getppid() != self._order["owner"]:
            self._ask(ORPHAN_GRACE_S)

    def _overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _ask(self, grace_s: float) -> None:
        """Asks the server to end, once, and never waits longer than it was told to before."""
        if self._deadline is None and self._server:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._server, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._server:
                    self._status = os.waitstatus_to_exitcode(ended[1])
                    self._say(event="died", status=self._status)

    def _finish(self) -> None:
        """Ends what is left, however often it has detached itself, and says how it went."""
        begun = time.monotonic()
        left = self._kill(patient=True)
        while left and time.monotonic() < begun + KILL_DEADLINE_S:
            time.sleep(0.005)
            left = self._kill(patient=time.monotonic() < begun + TIDY_S)
        while self._output >= 0 and self._read():
            pass
        self._segments.remove()
        lines = [line[:_LONGEST_QUOTE] for line in self._log.end()]
        shutil.rmtree(self._order["folder"], ignore_errors=True)
        self._say(event="ended", status=self._status, lines=lines, left=left)

    def _kill(self, *, patient: bool) -> list[int]:
        self._reap()
        left = below([os.getpid()], everybody())
        for pid in left:
            if patient and tidies(pid):
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    # -- ears ---------------------------------------------------------------------------------------------------

    def _read(self) -> bool:
        """Takes what the tree has printed; False when there is nothing."""
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            if self._output in self._selector.get_map():
                self._selector.unregister(self._output)
            return False
        self._log.feed(data)
        return True

    def _hear(self) -> None:
        data = os.read(0, _CHUNK)
        if not data:
            self._selector.unregister(0)
            self._ask(ORPHAN_GRACE_S)
        self._heard += data
        self._obey()

    def _obey(self) -> None:
        if CLOSE in self._heard:
            self._heard = b""
            self._ask(self._order["grace_s"])


def _order_line() -> tuple[bytes, bytes]:
    data = b""
    while b"\n" not in data:
        chunk = os.read(0, _CHUNK)
        if not chunk:
            raise SystemExit(1)  # its owner went before it gave an order
        data += chunk
    order, _, rest = data.partition(b"\n")
    return order, rest


def _say(**words: Any) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        left = json.dumps(words).encode() + b"\n"
        while left:
            left = left[os.write(1, left) :]


def main() -> None:
    """Entry point."""
    order, rest = _order_line()
    Supervisor(json.loads(order), rest, _say).run()


if __name__ == "__main__":
    main()
