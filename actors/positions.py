"""Which position of a node an accelerator has: the same for as long as the node lives, whatever its index becomes.

A vendor's index repeats or moves when cards come and go; a plan, a lock in Ray and a log all name positions. Kept in a
file, because the agent may be restarted while replicas run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path


def numbered(identities: Iterable[tuple[str, str]], known: Mapping[str, int]) -> dict[str, int]:
    """Positions by identity: the known ones, then the next free numbers in order of the second word (bus address).

    >>> numbered([("b", "0000:02"), ("a", "0000:01"), ("c", "0000:03")], {"c": 0})
    {'c': 0, 'a': 1, 'b': 2}
    """
    positions = dict(known)
    following = max(positions.values(), default=-1) + 1
    fresh = sorted((where, identity) for identity, where in identities if identity not in known)
    for _, identity in fresh:
        if identity not in positions:
            positions[identity] = following
            following += 1
    return positions


class Positions:
    """The positions given out so far. `path` = None keeps them in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known = _read(path) if path is not None else {}

    def of(self, identities: Iterable[tuple[str, str]]) -> Mapping[str, int]:
        """See `numbered`; new ones are remembered."""
        positions = numbered(identities, self._known)
        if positions != self._known:
            self._known = positions
            if self._path is not None:
                _write(self._path, positions)
        return positions


def _read(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(identity): int(position) for identity, position in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: Path, positions: Mapping[str, int]) -> None:
    """A disk that is full costs stability over a restart of the agent, nothing more."""
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.write_text(json.dumps(positions), encoding="utf-8")
        fresh.replace(path)
    except OSError:
        return
