"""The processes below a process, read from `/proc`.

Decides who counts as a descendant and when two process ids mean the same process. Standard library only: the supervisor of a
vendor's server starts with it. It must not know what the processes do.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
TIDY_S = 1.0
"""Left to a process that tidies up after the others."""


class Stat(NamedTuple):
    """What `/proc/PID/stat` says of a process. No dataclass: their module would make up a third of the supervisor's start.

    Attributes:
        state: the kernel's letter; Z and X have ended.
        started: in clock ticks since the machine's start; with the process id it names a process for good.
    """

    state: str
    parent: int
    started: int


def stat_of(pid: int) -> Stat | None:
    """A process now; None when there is none of that id."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name before the last parenthesis may hold anything, parentheses and spaces included.
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(fields[0].decode(), int(fields[1]), int(fields[19]))


def started(pid: int) -> int | None:
    """When a living process started; None when there is none, or only its remains."""
    stat = stat_of(pid)
    return None if stat is None or stat.state in "ZX" else stat.started


def everybody() -> dict[int, Stat]:
    """Every process in sight."""
    pids = (int(name) for name in os.listdir(PROC) if name.isdecimal())  # noqa: PTH208 - on `Path` it is ten times slower
    return {pid: stat for pid in pids if (stat := stat_of(pid)) is not None}


def below(roots: Iterable[int], stats: dict[int, Stat]) -> list[int]:
    """The living descendants of some processes, without themselves, parents before children."""
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    given = set(roots)
    found = [child for root in given for child in children.get(root, ())]
    for pid in found:
        found += children.get(pid, ())
    return [pid for pid in found if stats[pid].state not in "ZX" and pid not in given]


def tree(root: int) -> tuple[int, ...]:
    """A living process and its descendants; cheap, but a child that is just being started may be missing."""
    if started(root) is None:
        return ()
    found = [root]
    for pid in found:
        found += _children(pid)
    return tuple(found)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(PROC / str(pid) / "task"):  # noqa: PTH208
            text = (PROC / str(pid) / "task" / task / "children").read_text()
            found += [int(word) for word in text.split()]
    return found


def name_of(pid: int) -> str:
    """What a process calls itself: its command line, else its short name; at most 120 characters."""
    with contextlib.suppress(OSError):
        words = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").strip()
        words = words or (PROC / str(pid) / "comm").read_bytes().strip()
        return words.decode(errors="replace")[:120]
    return ""


def tidies(pid: int) -> bool:
    """Whether it is the process in which Python unlinks the shared memory of others once they are gone, and then ends."""
    with contextlib.suppress(OSError):
        return b"multiprocessing.resource_tracker" in (PROC / str(pid) / "cmdline").read_bytes()
    return False


def kill(pid: int, started_at: int) -> bool:
    """Ends the process that has this id and started then, and no other; False when it is gone already."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if started(pid) != started_at:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
