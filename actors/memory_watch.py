"""How much memory an engine's processes take, and whether that is more than was planned.

Decides what counts as taken, and when it is worth telling somebody: before the kernel has to kill something. It must not
know engines, and ends nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from placement.units import GIB

TOLERANCE = 1.1
"""Planned figures leave out what allocators keep and what libraries map."""

STEP = GIB // 4
"""What is told moves in steps: each new sentence goes to everybody who follows the replica."""


def taken_bytes(processes: Iterable[int], proc: Path = Path("/proc")) -> int:
    """Memory of processes, what they share counted once; those that have gone count nothing."""
    return sum(_process_bytes(proc / str(process)) for process in processes)


def _process_bytes(process: Path) -> int:
    """Its proportional set; the resident one where the kernel does not tell that."""
    for name, key in (("smaps_rollup", "Pss"), ("status", "VmRSS")):
        try:
            text = (process / name).read_text()
        except OSError:
            continue
        found = re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return 0


def outgrown(taken: int, planned: int) -> str:
    """A sentence when an engine takes more than was planned; empty when it does not, or nothing was planned.

    >>> outgrown(3 * 2**30, 2 * 2**30)
    'its engine takes 3.0 GiB of memory, 2.0 GiB were planned'
    >>> outgrown(2 * 2**30, 2 * 2**30)
    ''
    """
    if not planned or taken <= planned * TOLERANCE:
        return ""
    shown = max(STEP, taken // STEP * STEP)
    return f"its engine takes {shown / GIB:.1f} GiB of memory, {planned / GIB:.1f} GiB were planned"


class MemoryWatch:
    """Looks at one engine now and then.

    Args:
        processes: of which the engine consists now.
        planned_bytes: 0 = nobody knows, so nothing is ever said.
    """

    def __init__(self, processes: Callable[[], tuple[int, ...]], planned_bytes: int) -> None:
        self._processes = processes
        self._planned = planned_bytes
        self.taken_bytes = 0

    def look(self) -> str:
        """What is to be told of the engine's memory now; empty = all is well. Blocks for milliseconds."""
        self.taken_bytes = taken_bytes(self._processes())
        return outgrown(self.taken_bytes, self._planned)
