"""Grows partial plans, a whole array of them at a time, and drops those that cannot end in a better plan.

A partial plan has lost something against the bound; what is lost only grows. It is dropped when too much is lost, with the worth
of room that nothing to come can fill, or when a capacity cannot hold with the least that is to come. Knows rows, losses and
numbers of choices; not what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .proof_outlook import Choices, Table, Vector
from .proof_seats import OutOfSteps, Steps

Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

_MOST_KEPT = 400_000
"""Partial plans kept at once."""

_MOST_NUMBERS = 30_000_000
"""Numbers that their loads may take: 240 MB."""

_AT_ONCE = 100_000
"""Extensions judged at once."""

_SAMPLE = 2048
"""Extensions that tell which capacities are tightest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Partials:
    """Partial plans, one per column.

    Attributes:
        lost: against the bound.
        load: of each row; shape (rows, partials).
        chosen: number of the choice at each step; shape (steps, partials).
    """

    lost: Vector
    load: Vector
    chosen: Indices

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.lost)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demands:
    """What a partial plan must keep to after a step.

    Attributes:
        allowed: less than this may be lost in all.
        room: of each row, less the least that is to come.
        full: of each row, what is filled at least when everything to come takes the most.
        prices: of each row.
        outlooks: of rows, what else is lost at least in what is to come.
    """

    allowed: float
    room: Vector
    full: Vector
    prices: Vector
    outlooks: Mapping[int, Table]


def nothing_yet(rows: int) -> Partials:
    """The one partial plan of no steps."""
    return Partials(
        lost=np.zeros(1), load=np.zeros((rows, 1)), chosen=np.zeros((0, 1), dtype=np.intp)
    )


def grow(
    partials: Partials, choices: Choices, demands: Demands, steps: Steps, *, ordered: bool = False
) -> Partials:
    """Every partial plan with every next choice that may still end well.

    Args:
        ordered: the choice must not come before the last one.

    Raises:
        OutOfSteps: too many to judge or to keep.
    """
    ends = np.searchsorted(choices.lost, demands.allowed - partials.lost, side="left")
    starts = partials.chosen[-1] if ordered and len(partials.chosen) else np.zeros_like(ends)
    counts = np.maximum(ends - starts, 0)
    steps.take(int(counts.sum()) + 1)
    rows = _tightest(partials, choices, demands, starts, counts)
    found: list[tuple[Indices, Indices, Vector]] = []
    kept = 0
    most = min(_MOST_KEPT, _MOST_NUMBERS // max(1, len(partials.load)))
    for part in _parts(counts):
        pairs = _pairs(part, starts, counts)
        found.append(_judge(partials, choices, demands, rows, *pairs))
        kept += len(found[-1][0])
        if kept > most:
            raise OutOfSteps
    column, choice, lost = (np.concatenate(some) for some in zip(*found, strict=True))
    return Partials(
        lost=lost,
        load=partials.load[:, column] + choices.usage[:, choice],
        chosen=np.vstack([partials.chosen[:, column], choice[None, :]]),
    )


def _parts(counts: Indices) -> Iterator[Indices]:
    """Partial plans whose extensions are judged together; at least one part."""
    total = np.cumsum(counts)
    edges = np.searchsorted(
        total, np.arange(_AT_ONCE, int(total[-1]) if len(total) else 0, _AT_ONCE)
    )
    yield from np.split(np.arange(len(counts)), np.unique(edges))


def _pairs(part: Indices, starts: Indices, counts: Indices) -> tuple[Indices, Indices]:
    """Each of these partial plans with each of its next choices."""
    column = np.repeat(part, counts[part])
    before = np.cumsum(counts[part]) - counts[part] - starts[part]
    return column, np.arange(len(column)) - np.repeat(before, counts[part])


def _judge(
    partials: Partials,
    choices: Choices,
    demands: Demands,
    rows: Sequence[int],
    column: Indices,
    choice: Indices,
) -> tuple[Indices, Indices, Vector]:
    """The extensions that may end well, and what they have lost without what they waste."""
    lost = partials.lost[column] + choices.lost[choice]
    total, ahead = lost.copy(), np.zeros(len(lost))
    for row in rows:
        if not len(lost):
            break
        load = partials.load[row][column] + choices.usage[row][choice]
        wasted = demands.prices[row] * np.maximum(demands.full[row] - load, 0.0)
        total += wasted
        if row in demands.outlooks:
            ahead = np.maximum(ahead, demands.outlooks[row].least(load) - wasted)
        fits = (load <= demands.room[row]) & (total + ahead < demands.allowed)
        if not fits.all():
            column, choice, lost = column[fits], choice[fits], lost[fits]
            total, ahead = total[fits], ahead[fits]
    return column, choice, lost


def _tightest(
    partials: Partials, choices: Choices, demands: Demands, starts: Indices, counts: Indices
) -> list[int]:
    """Rows that may drop an extension, those that drop most of a sample first."""
    if not counts.any():
        return []
    least = partials.load.min(axis=1) + choices.usage.min(axis=1)
    most = partials.load.max(axis=1) + choices.usage.max(axis=1)
    may_drop = (most > demands.room) | ((demands.prices > 0) & (least < demands.full))
    may_drop[list(demands.outlooks)] = True
    rows = np.flatnonzero(may_drop)
    column, choice = _sample(starts, counts)
    load = partials.load[np.ix_(rows, column)] + choices.usage[np.ix_(rows, choice)]
    spare = np.maximum(demands.allowed - partials.lost[column] - choices.lost[choice], 1e-300)
    dropped = (load > demands.room[rows, None]).mean(axis=1)
    waste = np.maximum(demands.full[rows, None] - load, 0.0) * demands.prices[rows, None]
    for k, row in enumerate(rows.tolist()):
        if row in demands.outlooks:
            waste[k] = np.maximum(waste[k], demands.outlooks[row].least(load[k]))
    spoilt = np.minimum(waste / spare, 1.0).mean(axis=1)
    return rows[np.argsort(-np.maximum(dropped, spoilt), kind="stable")].tolist()


def _sample(starts: Indices, counts: Indices) -> tuple[Indices, Indices]:
    """Extensions spread evenly over all."""
    total = np.cumsum(counts)
    some = np.unique(np.linspace(0, total[-1] - 1, _SAMPLE).astype(np.intp))
    column = np.searchsorted(total, some, side="right")
    return column, some - (total - counts)[column] + starts[column]
