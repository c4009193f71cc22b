"""The kernel's notation for sets of logical CPUs, `0-3,8`. Knows nothing of what they are for."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST_CPUS = 1 << 16
"""More than any kernel is built for; a longer range is nonsense."""
MOST_PARTS = 1 << 12
"""More than a list of that many CPUs has in practice; what stands behind is left out."""


def parse_cpu_list(text: str | None) -> frozenset[int]:
    r"""The CPUs of a list; what is not a list names none.

    >>> sorted(parse_cpu_list("0-2,8\n")), sorted(parse_cpu_list("max"))
    ([0, 1, 2, 8], [])
    """
    cpus: set[int] = set()
    # Lists that name the same CPUs over and over again are nonsense, too.
    for part in (text or "").strip().split(",", MOST_PARTS)[:MOST_PARTS]:
        if found := re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part):
            first, last = int(found[1]), int(found[2] or found[1])
            cpus.update(range(first, min(last, MOST_CPUS) + 1))
    return frozenset(cpus)


def cpu_list(cpus: Iterable[int]) -> str:
    """Inverse of `parse_cpu_list`.

    >>> cpu_list([0, 1, 2, 8])
    '0-2,8'
    """
    runs: list[tuple[int, int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1] = (runs[-1][0], cpu)
        else:
            runs.append((cpu, cpu))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
