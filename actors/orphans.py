"""Engine processes whose owner is gone: how they are known, and their end.

Decides that a process belongs to an engine when its environment says so, when it runs in an engine's private folder (some
programs write over their own environment), or when it descends from one that does. Only processes of this user and of this process id
namespace are judged, as the owner's id means nothing in another. It must not know what an engine is.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .process_tree import PROC, TIDY_S, Stat, below, everybody, kill, name_of, started, tidies

MARK = "SHARDYARD_ENGINE_OWNER"
END_DEADLINE_S = 2.0
_FOLDER = re.compile(r"shardyard-(\d+)-(\d+)-(\w+)")


@dataclass(frozen=True, slots=True)
class Mark:
    """Says whose a process is.

    Attributes:
        owner: what the owner calls itself.
        pid, since: its process, and when that started (clock ticks since the machine's start).
        key: of one engine of that owner.
    """

    owner: str
    pid: int
    since: int
    key: str

    @property
    def text(self) -> str:
        """As it stands in the environment."""
        return f"{self.owner}.{self.key}:{self.pid}:{self.since}"

    @property
    def folder(self) -> str:
        """Name of the engine's private folder."""
        return f"shardyard-{self.pid}-{self.since}-{self.key}"

    @property
    def alive(self) -> bool:
        """Whether its owner lives."""
        return started(self.pid) == self.since


@dataclass(frozen=True, slots=True)
class Reaped:
    """A process that was ended: its id, what it called itself, and whose it had been."""

    pid: int
    name: str
    owner: str


def mark(owner: str, key: str) -> Mark:
    """A mark of this process."""
    word = re.sub(r"[^\w.@-]", "_", owner)[:64] or "shardyard"
    return Mark(word, os.getpid(), started(os.getpid()) or 0, key)


def marked(wanted: Mark) -> dict[int, Stat]:
    """The processes of one engine now."""
    return _families(lambda found: found == (wanted.pid, wanted.since, wanted.key))[0]


def end(wanted: Mark) -> bool:
    """Ends every process of one engine, and takes its folder away; False when something outlived it. Blocks for up to 2 s."""
    gone = not _end(lambda: marked(wanted))
    for place in folder_places():
        shutil.rmtree(place / wanted.folder, ignore_errors=True)
    return gone


def reap() -> tuple[Reaped, ...]:
    """Ends every engine process of this user whose owner no longer lives, and takes its folder away. Blocks for up to 2 s."""
    found, owners = _families(_orphaned)
    reaped = tuple(Reaped(pid, name_of(pid), owners[pid]) for pid in found)
    _end(lambda: _families(_orphaned)[0])
    for place in folder_places():
        for folder in place.glob("shardyard-*-*-*"):
            match = _FOLDER.fullmatch(folder.name)
            if match and folder.lstat().st_uid == os.getuid() and _orphaned(_identity(match)):
                shutil.rmtree(folder, ignore_errors=True)
    return reaped


def folder_places() -> tuple[Path, ...]:
    """Where private folders may lie, the preferred place first: paths of sockets are short, temporary folders need not be."""
    return tuple(dict.fromkeys((Path(tempfile.gettempdir()), Path("/tmp"), Path("/dev/shm"))))  # noqa: S108


_Identity = tuple[int, int, str]


def _orphaned(found: _Identity) -> bool:
    return started(found[0]) != found[1]


def _identity(match: re.Match[str]) -> _Identity:
    return int(match[1]), int(match[2]), match[3]


def _families(belongs: Callable[[_Identity], bool]) -> tuple[dict[int, Stat], dict[int, str]]:
    """The marked processes that belong, with their descendants but those that bear another mark; and whose each is."""
    stats = everybody()
    ours = _namespace(os.getpid())
    known = {pid: seen for pid in stats if (seen := _seen(pid, ours)) is not None}
    roots = [pid for pid, (identity, _) in known.items() if belongs(identity)]
    owners = {pid: known[pid][1] for pid in roots}
    spared = _line(os.getpid(), stats)
    for root in roots:
        for pid in below([root], stats):
            if pid not in known and _namespace(pid) == ours:
                owners.setdefault(pid, known[root][1])
    found = {
        pid: stats[pid] for pid in owners if pid not in spared and stats[pid].state not in "ZX"
    }
    return found, owners


def _seen(pid: int, namespace: str) -> tuple[_Identity, str] | None:
    """What a process' mark says and whose it is; None when it has none or is not ours to judge."""
    place = PROC / str(pid)
    try:
        if place.stat().st_uid != os.getuid() or _namespace(pid) != namespace:
            return None
        told = _told((place / "environ").read_bytes())
        directory = os.readlink(place / "cwd")  # noqa: PTH115 - a deleted folder is no path
    except OSError:
        return None
    match = _FOLDER.search(directory)
    return told or (None if match is None else (_identity(match), "unknown"))


def _told(environment: bytes) -> tuple[_Identity, str] | None:
    for row in environment.split(b"\0"):
        if row.startswith(MARK.encode() + b"="):
            match = re.fullmatch(
                r"(.*)\.(\w+):(\d+):(\d+)", row.decode(errors="replace").partition("=")[2]
            )
            return match and ((int(match[3]), int(match[4]), match[2]), match[1])
    return None


def _namespace(pid: int) -> str:
    try:
        return os.readlink(PROC / str(pid) / "ns" / "pid")  # noqa: PTH115
    except OSError:
        return ""


def _line(pid: int, stats: dict[int, Stat]) -> set[int]:
    """A process and its ancestors."""
    found: set[int] = set()
    while pid in stats and pid not in found:
        found.add(pid)
        pid = stats[pid].parent
    return found


def _end(find: Callable[[], dict[int, Stat]]) -> dict[int, Stat]:
    """Kills what is found until nothing is; what is left after the deadline is returned."""
    begun = time.monotonic()
    deadline = begun + END_DEADLINE_S
    while left := find():
        patient = time.monotonic() < begun + TIDY_S
        for pid, stat in left.items():
            if not (patient and tidies(pid)):
                kill(pid, stat.started)
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)
    return {}
