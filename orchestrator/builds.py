"""Runs one command of a build: its lines as they come, secrets hidden, a deadline, and nothing of it left afterwards.

It must not know what is built.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from actors.redaction import redacted

KEPT_LINES = 40
LONGEST_LINE_BYTES = 4096
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How it ended.

    Attributes:
        status: exit status; negative = the signal.
        overdue: the deadline ended it.
        last: its last lines that were not empty.
    """

    status: int
    overdue: bool
    last: tuple[str, ...]


def watched(
    argv: Sequence[str], env: Mapping[str, str], until_s: float, hear: Callable[[str], None]
) -> Ended:
    """Runs a command to its end in a process group of its own, both streams as one.

    Args:
        until_s: deadline on the monotonic clock.
        hear: gets each line that is not empty.
    """
    last: deque[str] = deque(maxlen=KEPT_LINES)

    def keep(raw: bytes) -> None:
        line = redacted(raw.decode(errors="replace").rstrip())
        if line:
            last.append(line)
            hear(line)

    # An interrupt between the start of the command and the word that it runs would leave it to itself.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        process = _started(argv, env, before)
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        keep(f"{argv[0]}: {error.strerror}".encode())
        return Ended(status=126, overdue=False, last=tuple(last))
    with process:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            overdue = not _drained(process, until_s, keep)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return Ended(status=process.returncode, overdue=overdue, last=tuple(last))


def _started(
    argv: Sequence[str], env: Mapping[str, str], mask: Iterable[int]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - an interpreter that the operator chose, no shell
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(env),
        cwd="/",
        process_group=0,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),  # noqa: PLW1509 - one call of the kernel
    )


def _drained(
    process: subprocess.Popen[bytes], until_s: float, keep: Callable[[bytes], None]
) -> bool:
    """Hands over lines until the command has ended; False when the deadline came first."""
    stream = process.stdout
    assert stream is not None
    text = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while selector.select(max(0.0, until_s - time.monotonic())):
            data = os.read(stream.fileno(), 65536)
            if not data:
                return _exited(process, until_s)
            *lines, text = bytearray(text + data).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                keep(bytes(line[:LONGEST_LINE_BYTES]))
            del text[LONGEST_LINE_BYTES:]
    return False


def _exited(process: subprocess.Popen[bytes], until_s: float) -> bool:
    try:
        process.wait(max(0.0, until_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True
