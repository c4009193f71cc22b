"""The placement problem without whole numbers: candidates and rows as arrays, and the bound that prices prove on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .demand import Demand
from .rows import Table

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

MAX_ROWS = 300
"""Rows that get a price: those that several models share first. The others are left to the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxed:
    """The relaxation in arrays.

    Attributes:
        usage: per candidate and priced row, in parts of the row's limit.
        unit: what 1 stands for, per priced row.
        limits: in those parts: 1, or -1 for a minimum.
        rows: which rows of the table are priced.
        starts: first candidate of each model.
        least, most: copies of each model.
    """

    values: Vector
    usage: Vector
    unit: Vector
    limits: Vector
    rows: Indices
    starts: Indices
    least: Vector
    most: Vector

    @property
    def counts(self) -> Indices:
        """Candidates of each model."""
        return np.diff(np.append(self.starts, len(self.values)))

    def bound_at(self, prices: Vector) -> float:
        """No plan is worth more; `prices` >= 0, per part of a limit."""
        best = np.maximum.reduceat(self.reduced(prices), self.starts)
        spare = self.most - self.least
        copies = (self.least * best + spare * np.maximum(best, 0.0)).sum()
        return float((prices * self.limits).sum() + copies)

    def reduced(self, prices: Vector) -> Vector:
        """Each candidate's value less what it takes at those prices."""
        return self.values - np.einsum("kr,r->k", self.usage, prices)


def relax(table: Table, demands: Sequence[Demand], values: Sequence[float]) -> Relaxed:
    """The relaxation of a table; `demands` each have candidates, in the table's order."""
    rows = _priced(table)
    position = {row: k for k, row in enumerate(rows)}
    unit = np.array([max(abs(table.rows[row].limit), 1e-9) for row in rows])
    usage = np.zeros((len(table.candidates), len(rows)))
    for k, pairs in enumerate(table.usage):
        for row, amount in pairs:
            column = position.get(row)
            if column is not None:
                usage[k, column] = amount
    usage /= unit
    return Relaxed(
        values=np.array(values, dtype=np.float64),
        usage=usage,
        unit=unit,
        limits=np.array([table.rows[row].limit for row in rows]) / unit,
        rows=np.array(rows, dtype=np.intp),
        starts=np.array([table.of_model[d.id][0] for d in demands], dtype=np.intp),
        least=np.array([float(d.replicas_min) for d in demands]),
        most=np.array([float(d.replicas_max) for d in demands]),
    )


def _priced(table: Table) -> list[int]:
    """Rows that get a price."""
    models = [c.model for c in table.candidates]
    alone = [len({models[k] for k in row.amounts}) == 1 for row in table.rows]
    order = sorted(range(len(table.rows)), key=lambda row: alone[row])
    return sorted(order[:MAX_ROWS])
