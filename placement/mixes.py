"""The copies of one model chosen anew, all together, in the room that the other models leave: a beam search over partial mixes.

For models of many copies, whose fractional plan is rounded badly one copy at a time. Knows candidates as numbers; whether a mix
can be put on nodes is the packer's.
"""

from __future__ import annotations

import numpy as np

from .relaxation import Indices, Relaxed, Vector

WIDTH = 400
"""Partial mixes kept after each copy."""

OPEN = 14
"""Copies that are chosen one by one; those before them follow the fractional plan."""

STEPS = 60
"""Copies added at most."""

_SLACK = 1e-9


def best_mix(
    relaxed: Relaxed, prices: Vector, weights: Vector, model: int, room: Vector
) -> tuple[int, ...]:
    """Candidates of one model, repeated for several copies, worth as much as was found; no more than it may have.

    Args:
        prices: of the rows, per part of a limit.
        weights: of all candidates in the fractional plan.
        room: what is free of each row, in parts of its limit.
    """
    first = int(relaxed.starts[model])
    own = np.arange(first, first + int(relaxed.counts[model]))
    usage, values = relaxed.usage[own], relaxed.values[own]
    most = int(relaxed.most[model])
    base = _base(usage, weights[own], room, most)
    left, worth = (room - base @ usage)[None, :], np.array([float(base @ values)])
    counts = base[None, :]
    best, mix = float(worth[0]), counts[0]
    for _ in range(min(STEPS, most - int(base.sum()))):
        left, worth, counts = _extended(left, worth, counts, usage, values)
        if not len(worth):
            break
        top = int(worth.argmax())
        if worth[top] > best:
            best, mix = float(worth[top]), counts[top]
        hope = worth + left @ prices
        order = np.argsort(-hope, kind="stable")[:WIDTH]
        order = order[hope[order] > best]
        left, worth, counts = left[order], worth[order], counts[order]
    return tuple(int(k) for k in np.repeat(own, mix.astype(np.intp)))


def _base(usage: Vector, weights: Vector, room: Vector, most: int) -> Vector:
    """The fractional plan, rounded down, without the last copies."""
    parts = weights / weights.sum() if weights.sum() > 0 else weights
    taken = parts @ usage
    full = min([float(most), *(room[taken > 0] / taken[taken > 0]).tolist()])
    return np.floor(parts * max(0.0, full - OPEN))


def _extended(
    left: Vector, worth: Vector, counts: Vector, usage: Vector, values: Vector
) -> tuple[Vector, Vector, Vector]:
    """Every mix with one copy more that still fits; of those that leave the same room, the one worth most."""
    after = left[:, None, :] - usage[None, :, :]
    mix, copy = np.nonzero((after >= -_SLACK).all(axis=2))
    rest, value = after[mix, copy], worth[mix] + values[copy]
    mark = np.round(rest @ np.sin(np.arange(1, 1 + rest.shape[1])), 9)
    order = np.lexsort((copy, -value, mark))
    kept = order[first_of(mark[order])]
    grown = counts[mix[kept]]
    grown[np.arange(len(kept)), copy[kept]] += 1
    return rest[kept], value[kept], grown


def first_of(ranked: Vector) -> Indices:
    """Positions of the first of each run of equal numbers."""
    return np.flatnonzero(np.diff(ranked, prepend=np.nan) != 0)
