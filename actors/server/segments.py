"""Shared memory that a process tree leaves behind: who is killed cannot unlink its segments, and nobody else would.

Decides that a segment is the tree's when one of its processes mapped it and it is no older than the tree. Standard library only.
It must not know what the processes do.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from ..process_tree import PROC, everybody

_MEMORY = Path("/dev/shm")  # noqa: S108 - what lies there is the matter
_MAPPED = re.compile(rb" /dev/shm/([^/\n]+)(?: \(deleted\))?$", re.MULTILINE)
_CLOCK_SLACK_S = 1.0
_LOOK_S = 1.0


class Segments:
    """Remembers the segments of one tree, from now on."""

    def __init__(self) -> None:
        self._since = time.time() - _CLOCK_SLACK_S
        self._looked = -_LOOK_S
        self._known: set[str] = set()
        self._fresh: set[str] = set()
        self._ours: set[str] = set()

    def look(self, pids: Callable[[], Iterable[int]]) -> None:
        """Looks at the tree's processes when there are segments that were not there before; once a second at most."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        names = self._present()
        if names - self._known:
            self._ours |= _mapped(pids()) & names
        # One that was just made may not be mapped yet, so each is looked for twice.
        self._known, self._fresh = self._fresh & names, names

    def _present(self) -> set[str]:
        found: set[str] = set()
        with suppress(OSError), os.scandir(_MEMORY) as entries:
            for entry in entries:
                with suppress(OSError):
                    stat = entry.stat(follow_symlinks=False)
                    if stat.st_uid == os.getuid() and stat.st_ctime >= self._since:
                        found.add(entry.name)
        return found

    def remove(self) -> None:
        """Takes away what is left of the tree's, once the tree has ended, unless somebody else maps it."""
        left = self._ours & self._present()
        for name in left - (_mapped(everybody()) if left else set()):
            with suppress(OSError):
                (_MEMORY / name).unlink()


def _mapped(pids: Iterable[int]) -> set[str]:
    found: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            maps = (PROC / str(pid) / "maps").read_bytes()
            found.update(name.decode(errors="replace") for name in _MAPPED.findall(maps))
    return found
