"""What `/proc` tells of processes: their family, their age, the marks in their environment.

Decides nothing. A process that ends while it is read is simply not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One row of `/proc/PID/stat`. `state` is the kernel's letter; Z and X have ended."""

    pid: int
    state: str
    ppid: int
    pgid: int
    session: int
    start_ticks: int

    @property
    def running(self) -> bool:
        """False for a process that has ended and only waits to be collected."""
        return self.state not in "ZX"


def process(pid: int) -> Process | None:
    """The process of that number, or None."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name, in parentheses, may hold anything, also spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return Process(pid, fields[0], *(int(fields[k]) for k in (1, 2, 3, 19)))


def processes() -> dict[int, Process]:
    """All processes that run, by number."""
    numbers = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
    found = (process(pid) for pid in numbers)
    return {row.pid: row for row in found if row is not None and row.running}


def environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty when it is another user's."""
    try:
        text = (_PROC / str(pid) / "environ").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return {}
    return {key: value for key, _, value in (row.partition("=") for row in text.split("\0")) if key}


def command(pid: int) -> str:
    """The first word of a process' command line; empty when it has none."""
    try:
        text = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return text.partition("\0")[0]
