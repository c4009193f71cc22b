"""A proven upper bound by Lagrangian duality, and the prices behind it. Numpy only.

For prices y >= 0 of the rows, no plan is worth more than y . limits + sum over replicas of the best candidate's value less
the price of what it takes (`bound_at`). Whatever the prices are, the bound holds; how they are found is no part of the proof.

They are found on the smoothed dual: the best candidate is replaced by the logarithm of the sum of exponentials at a
temperature, and y >= 0 by a logarithmic barrier. That function is smooth and convex, so that Newton's method follows its
minimum while the temperature falls. The weights of the candidates at the end are nearly the fractional plan of the
relaxation, which is where rounding starts.

Products are taken with einsum and bincount: a BLAS would start threads, which cost more than they bring at these sizes and
wait busily where cores are shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .demand import Demand
from .relaxation import Relaxed, Vector, relax
from .rows import Table

TEMPERATURES = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
"""In parts of a replica's mean value; the last one leaves the bound a few parts in 10^5 above the relaxation."""

WARM = 5
"""First temperature where prices are known already."""

CURB = 1e-6
"""Curvature that keeps the price of a row finite where those who must use it fill it exactly."""

NEWTON_STEPS = 12
"""At most, for each temperature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dual:
    """What prices prove.

    Attributes:
        prices: worth of one more unit of each row.
        reduced: each candidate's value less what it takes at those prices.
        weights: each candidate's part in the fractional plan, for a copy that must run; sums to 1 over each model.
        optional: part of each model's optional copies that the fractional plan places.
        impossible: the prices prove that the copies which must run do not fit together.
    """

    bound: float
    prices: tuple[float, ...]
    reduced: tuple[float, ...]
    weights: tuple[float, ...]
    optional: tuple[float, ...] = ()
    impossible: bool = False


def dual(
    table: Table,
    demands: Sequence[Demand],
    values: Sequence[float],
    known: Mapping[str, float] | None = None,
    *,
    lp: bool = False,
) -> Dual:
    """Bound and prices; `known` are prices of rows by name from which to start.

    Args:
        lp: the prices come from a linear program (extra `lp`); rounding still starts from the smoothed dual's weights.
    """
    if not table.candidates:
        return Dual(bound=0.0, prices=(0.0,) * len(table.rows), reduced=(), weights=())
    relaxed = relax(table, demands, values)
    start = None
    if known:
        names = [table.rows[row].name for row in relaxed.rows]
        start = np.array([known.get(name, 0.0) for name in names]) * relaxed.unit
    path = Path(relaxed, start)
    path.follow()
    prices = path.purged()
    if lp and not path.impossible:
        from .bounds_lp import lp_prices

        solved = lp_prices(relaxed)
        prices = min(prices, solved, key=relaxed.bound_at)
    found = priced(table, relaxed, prices, path.weights(), impossible=path.impossible)
    return replace(found, optional=tuple(path.optional().tolist()))


def priced(
    table: Table, relaxed: Relaxed, prices: Vector, weights: Vector, *, impossible: bool = False
) -> Dual:
    """The dual at given prices (per part of a limit), rounded as a plan shows them before the bound is taken."""
    shown = np.array([shorten(p) for p in (prices / relaxed.unit).tolist()])
    shown[shown * relaxed.unit < 1e-9] = 0.0
    full = np.zeros(len(table.rows))
    full[relaxed.rows] = shown
    scaled = shown * relaxed.unit
    return Dual(
        bound=relaxed.bound_at(scaled),
        prices=tuple(full.tolist()),
        reduced=tuple(relaxed.reduced(scaled).tolist()),
        weights=tuple(weights.tolist()),
        impossible=impossible,
    )


def shorten(price: float) -> float:
    """A price as a plan shows it.

    >>> shorten(0.1873333333333)
    0.1873333333
    """
    return float(f"{max(price, 0.0):.10g}")


class Path:
    """Newton's method on the smoothed dual while its temperature falls."""

    def __init__(self, relaxed: Relaxed, start: Vector | None) -> None:
        self._relaxed = relaxed
        self._scale = float(np.abs(relaxed.values).mean()) or 1.0
        self._group = np.repeat(np.arange(len(relaxed.starts)), relaxed.counts)
        total = float((relaxed.most * np.maximum.reduceat(relaxed.values, relaxed.starts)).sum())
        least = np.minimum.reduceat(relaxed.values, relaxed.starts)
        self._worst = float((relaxed.least * least).sum())
        rows = relaxed.usage.shape[1]
        self._pairs = _Pairs(relaxed.usage)
        self._entries = np.nonzero(relaxed.usage)
        self._amounts = relaxed.usage[self._entries]
        self._cells = self._group[self._entries[0]] * rows + self._entries[1]
        usual = np.full(rows, 0.05 * abs(total) / max(rows, 1) + 1e-9)
        self._prices = usual if start is None else np.maximum(start, usual * 1e-4)
        self._levels = TEMPERATURES if start is None else TEMPERATURES[WARM:]
        self.prices = np.zeros(rows)
        self._bound = relaxed.bound_at(self.prices)
        self._temperature = self._levels[-1] * self._scale
        self.impossible = False

    def follow(self) -> None:
        """Down to the last temperature, or until the prices prove that nothing fits."""
        if not len(self._prices):
            return
        for level in self._levels:
            self._temperature = level * self._scale
            self._minimise()
            self._keep()
            if self.impossible:
                return

    def weights(self) -> Vector:
        """Each candidate's part at the best prices."""
        return self._parts(self.prices)[1]

    def optional(self) -> Vector:
        """Part of each model's optional copies that is placed at the best prices."""
        return self._parts(self.prices)[3]

    def purged(self) -> Vector:
        """The best prices without those that only the barrier holds above zero, where the bound does not suffer."""
        floor = 20 * self._temperature
        clean = np.where(self.prices < floor, 0.0, self.prices)
        worse = self._relaxed.bound_at(clean) - self._bound
        return clean if worse <= 1e-6 * abs(self._bound) else self.prices

    def _keep(self) -> None:
        bound = self._relaxed.bound_at(self._prices)
        if bound < self._bound:
            self._bound, self.prices = bound, self._prices.copy()
        self.impossible = self._bound < self._worst - 1e-9 * abs(self._worst)

    def _parts(self, prices: Vector) -> tuple[Vector, Vector, Vector, Vector]:
        """Best reduced values, weights, smoothed maxima, and the weight of choosing at all."""
        relaxed = self._relaxed
        reduced = relaxed.reduced(prices) / self._temperature
        best = np.maximum.reduceat(reduced, relaxed.starts)
        parts = np.exp(np.maximum(reduced - best[self._group], -700.0))
        sums = np.add.reduceat(parts, relaxed.starts)
        smooth = best + np.log(sums)
        chosen = 1.0 / (1.0 + np.exp(np.clip(-smooth, -700.0, 700.0)))
        return best, parts / sums[self._group], smooth, chosen

    def _value(self, prices: Vector) -> float:
        """The smoothed dual with its barrier."""
        relaxed = self._relaxed
        _, _, smooth, _ = self._parts(prices)
        spare = relaxed.most - relaxed.least
        optional = np.maximum(smooth, 0.0) + np.log1p(np.exp(-np.abs(smooth)))
        inner = (relaxed.least * smooth + spare * optional).sum() - np.log(prices).sum()
        curb = CURB / self._scale / 2 * (prices**2).sum()
        return float((prices * relaxed.limits).sum() + self._temperature * inner + curb)

    def _minimise(self) -> None:
        for _ in range(NEWTON_STEPS):
            step, decrease = self._newton()
            if decrease < 1e-6 * self._temperature * len(self._prices):
                return
            if not self._walk(step, decrease):
                return

    def _newton(self) -> tuple[Vector, float]:
        """The step to the minimum of the local model, and how much it promises."""
        relaxed, prices, heat = self._relaxed, self._prices, self._temperature
        _, parts, _, chosen = self._parts(prices)
        spare = relaxed.most - relaxed.least
        copies = relaxed.least + spare * chosen
        mean = self._mean(parts)
        curb = CURB / self._scale
        taken = np.einsum("m,mr->r", copies, mean)
        slope = relaxed.limits - taken - heat / prices + curb * prices
        held = spare * chosen * (1 - chosen) - copies
        bend = self._pairs.weighted(parts * copies[self._group])
        bend = (bend + np.einsum("mr,ms->rs", mean, held[:, None] * mean)) / heat
        bend[np.diag_indices_from(bend)] += heat / prices**2 + curb
        # In units of the prices themselves, so that rows of any size weigh alike.
        scaled = bend * prices[:, None] * prices[None, :]
        scaled[np.diag_indices_from(scaled)] += 1e-9 * heat
        step = -prices * np.linalg.solve(scaled, prices * slope)
        return step, -float((step * slope).sum())

    def _mean(self, parts: Vector) -> Vector:
        """What a copy of each model takes of each row, on average over its candidates."""
        shape = (len(self._relaxed.starts), self._relaxed.usage.shape[1])
        weights = self._amounts * parts[self._entries[0]]
        cells = np.bincount(self._cells, weights, minlength=shape[0] * shape[1])
        return cells.astype(np.float64).reshape(shape)

    def _walk(self, step: Vector, decrease: float) -> bool:
        """Goes as far along the step as it helps; False when it does not."""
        falling = step < 0
        length = 1.0
        if falling.any():
            steepest = float((-step[falling] / self._prices[falling]).max())
            length = min(1.0, 0.95 / steepest)
        before = self._value(self._prices)
        for _ in range(30):
            after = self._prices + length * step
            if self._value(after) <= before - 1e-4 * length * decrease:
                self._prices = after
                return True
            length /= 2
        return False


class _Pairs:
    """Products of the amounts that one candidate takes of two rows, kept where they are not 0."""

    def __init__(self, usage: Vector) -> None:
        self._rows = usage.shape[1]
        count = (usage != 0).sum(axis=1)
        who, row = np.nonzero(usage)
        first = np.cumsum(count) - count
        size = count[who]
        left = np.repeat(np.arange(len(who)), size)
        offset = np.arange(len(left)) - np.repeat(np.cumsum(size) - size, size)
        right = first[who[left]] + offset
        self._who = who[left]
        self._cell = row[left] * self._rows + row[right]
        amounts = usage[who, row]
        self._product = amounts[left] * amounts[right]

    def weighted(self, weights: Vector) -> Vector:
        """Their sum over the candidates, each with its weight; shape (rows, rows)."""
        cells = np.bincount(self._cell, self._product * weights[self._who], minlength=self._rows**2)
        return cells.astype(np.float64).reshape(self._rows, self._rows)
