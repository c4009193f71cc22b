"""A proven upper bound by Lagrangian duality, and the prices behind it. Numpy only.

For prices y >= 0 of the rows, no plan is worth more than y . limits + sum over replicas of the best candidate's value less
the price of what it takes. The prices are improved by subgradient steps; whatever they are, the bound holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .demand import Demand
from .rows import Table

Vector = NDArray[np.float64]

_STEPS = 200
_PATIENCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Dual:
    """The bound, the price of one more unit of each row, and each candidate's value less what it takes at those prices."""

    bound: float
    prices: tuple[float, ...]
    reduced: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relaxed:
    """The relaxation in arrays: per candidate, per row (scaled to limit 1), per model."""

    values: Vector
    usage: Vector
    starts: NDArray[np.intp]
    least: Vector
    most: Vector

    def at(self, prices: Vector) -> tuple[float, Vector]:
        """Bound at those prices and its subgradient (what is left of each row; negative = over)."""
        reduced = self.values - self.usage @ prices
        best = np.maximum.reduceat(reduced, self.starts)
        counts = np.where(best > 0, self.most, self.least)
        rows = np.ones_like(prices)
        for start, end, top, count in zip(
            self.starts, np.append(self.starts[1:], len(reduced)), best, counts, strict=True
        ):
            if count:
                choice = start + int(np.argmax(reduced[start:end] == top))
                rows -= count * self.usage[choice]
        return float(prices.sum() + counts @ best), rows


def dual(table: Table, demands: tuple[Demand, ...], values: tuple[float, ...]) -> Dual:
    """Bound and prices. `demands` each have candidates, which lie together and in the same order."""
    if not table.candidates:
        return Dual(bound=0.0, prices=(0.0,) * len(table.rows), reduced=())
    limits = np.array([max(row.limit, 1e-9) for row in table.rows])
    relaxed = _relax(table, demands, values, limits)
    bound, prices = _descend(relaxed, len(table.rows))
    reduced = relaxed.values - relaxed.usage @ prices
    return Dual(
        bound=bound,
        prices=tuple(float(p) for p in prices / limits),
        reduced=tuple(float(r) for r in reduced),
    )


def _relax(
    table: Table, demands: tuple[Demand, ...], values: tuple[float, ...], limits: Vector
) -> _Relaxed:
    usage = np.zeros((len(table.candidates), len(table.rows)))
    for k, pairs in enumerate(table.usage):
        for row, amount in pairs:
            usage[k, row] = amount / limits[row]
    models = [c.model for c in table.candidates]
    return _Relaxed(
        values=np.array(values),
        usage=usage,
        starts=np.array([models.index(d.id) for d in demands], dtype=np.intp),
        least=np.array([float(d.replicas_min) for d in demands]),
        most=np.array([float(d.replicas_max) for d in demands]),
    )


def _descend(relaxed: _Relaxed, rows: int) -> tuple[float, Vector]:
    prices = np.zeros(rows)
    bound, slack = relaxed.at(prices)
    best, best_prices, scale, stale = bound, prices, 1.0, 0
    for _ in range(_STEPS):
        over = np.where((prices <= 0) & (slack > 0), 0.0, slack)
        norm = float(over @ over)
        if norm < 1e-18:
            break
        step = scale * 0.05 * abs(best) / norm
        prices = np.maximum(prices - step * over, 0.0)
        bound, slack = relaxed.at(prices)
        if bound < best - 1e-9 * abs(best):
            best, best_prices, stale = bound, prices, 0
        else:
            stale += 1
        if stale > _PATIENCE:
            prices, scale, stale = best_prices, scale / 2, 0
            bound, slack = relaxed.at(prices)
    return best, best_prices
