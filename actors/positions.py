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

    A card whose serial was not told at first, or is not told any more, is known by its place.

    >>> numbered([("b", "0000:02"), ("a", "0000:01"), ("c", "0000:03")], {"c": 0})
    {'c': 0, 'a': 1, 'b': 2}
    >>> numbered([("npu:S1@0000:01", "0000:01")], {"npu:@0000:01": 4})
    {'npu:@0000:01': 4, 'npu:S1@0000:01': 4}
    """
    there = list(identities)
    positions = dict(known)
    following = max(positions.values(), default=-1) + 1
    present = {identity for identity, _ in there}
    for _, identity in sorted((where, identity) for identity, where in there):
        if identity in positions:
            continue
        same = _same_place(identity, positions.keys() - present)
        positions[identity] = following if same is None else positions[same]
        following += same is None
    return positions


def _same_place(identity: str, known: Iterable[str]) -> str | None:
    """A known identity of the same card: at the same place, where one of the two has nothing but the place."""
    here = [other for other in sorted(known) if _place(other) == _place(identity)]
    told = [other for other in here if not _is_bare(other)]
    if _is_bare(identity):
        return told[-1] if told else None
    # Another card that told its serial was here: this is a third one.
    return None if told else next(iter(here), None)


def _place(identity: str) -> tuple[str, str]:
    """Family and address; an identity without an address is at a place of its own."""
    own, at, place = identity.partition("@")
    return (own.partition(":")[0], place) if at else ("", identity)


def _is_bare(identity: str) -> bool:
    return identity.partition("@")[0].endswith(":")


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
