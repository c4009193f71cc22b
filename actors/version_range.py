"""Whether a version lies in a range such as `>=2026.1,<2027`. Knows numbers separated by dots, and nothing of suffixes."""

from __future__ import annotations

import re
from itertools import zip_longest


def within(version: str, wanted: str) -> bool | None:
    """Whether every clause holds; None when the version or a clause cannot be read.

    >>> within("2026.4.0", ">=2026.1"), within("535.104.05", ">=560,<600"), within("devel", ">=1")
    (True, False, None)
    """
    found = _numbers(version)
    clauses = [re.fullmatch(r"\s*(>=|<|==)\s*(.+)", clause) for clause in wanted.split(",")]
    if found is None:
        return None
    holds: list[bool] = []
    for clause in clauses:
        bound = _numbers(clause[2]) if clause else None
        if clause is None or bound is None:
            return None
        order = _order(found, bound)
        holds.append({">=": order >= 0, "<": order < 0, "==": order == 0}[clause[1]])
    return all(holds)


def _numbers(text: str) -> tuple[int, ...] | None:
    found = re.match(r"\s*v?([0-9]{1,9}(?:\.[0-9]{1,9})*)", text)
    return tuple(int(word) for word in found[1].split(".")) if found else None


def _order(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """-1, 0 or 1; `2.0` is `2`."""
    for a, b in zip_longest(one, other, fillvalue=0):
        if a != b:
            return -1 if a < b else 1
    return 0
