"""How little more of each row would let all copies that must run hold together, copies being divisible; and prices that prove it.

A bounded revised simplex on `contention`, numpy only. What it returns is checked again by whoever believes it: prices prove a
conflict by themselves, whatever the arithmetic behind them was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contention import Contention, Index, Vector

MAX_WORK = 1_500_000_000
"""Entries of the inverse that may be updated by one solve, about a second."""

_TINY = 1e-9
_STIFF = 10.0
"""Cost of lifting a row beside that of adding devices, so that a shortage is said in devices where it is one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shortage:
    """The cheapest way to make room.

    Attributes:
        prices: of each row.
        missing: row -> how much more of it, in its own unit; of devices where more devices are what it takes.
        complete: the solve came to its end, so that no missing row means that divisible copies fit.
    """

    prices: Vector
    missing: dict[str, float]
    complete: bool


def elastic(contention: Contention) -> Shortage:
    """Solves the elastic problem: least relative additions to rows, so that all copies fit."""
    active = _active(contention)
    if not active.models.size:
        return Shortage(prices=np.zeros(len(contention.rows)), missing={}, complete=True)
    simplex = _Simplex(contention, active)
    complete = simplex.run()
    prices = np.zeros(len(contention.rows))
    prices[active.rows] = simplex.prices()
    return Shortage(prices=prices, missing=simplex.missing(), complete=complete)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Active:
    """Rows that could be short, and models that must take of them."""

    rows: Index
    models: Index


def _active(whole: Contention) -> _Active:
    """Leaves out rows that all copies together cannot fill, then models with a way around all others."""
    if not whole.models:
        empty = np.zeros(0, dtype=np.intp)
        return _Active(rows=empty, models=empty)
    owner = np.repeat(
        np.arange(len(whole.models)), np.diff(np.append(whole.starts, len(whole.candidates)))
    )
    models = whole.least > 0
    while True:
        most = np.zeros((len(whole.models), len(whole.rows)))
        np.maximum.at(most, (owner[whole.at], whole.row), whole.amount)
        most[~models] = 0.0
        rows = whole.least @ most > whole.limits * (1 - 1e-12)
        touched = np.zeros(len(whole.candidates), dtype=bool)
        touched[whole.at[rows[whole.row]]] = True
        bound = np.logical_and.reduceat(touched, whole.starts) & models
        if (bound == models).all():
            return _Active(rows=np.flatnonzero(rows), models=np.flatnonzero(models))
        models = bound


class _Simplex:
    """Rows first, then one equality per model: its copies. Every row can be lifted at a cost."""

    def __init__(self, whole: Contention, active: _Active) -> None:
        self._names = [whole.rows[r] for r in active.rows]
        self._scale = np.where(
            whole.limits[active.rows] > 0, np.maximum(whole.limits[active.rows], 1e-9), 1.0
        )
        limits = whole.limits[active.rows] / self._scale
        count = len(self._names)
        # Equal ratios make the method run in circles; limits that differ a little keep it going.
        self._limits = limits + 1e-8 * (1 + np.arange(count) % 97)
        self._size = count + len(active.models)
        self._rows = count
        self._columns(whole, active)
        self._start(whole.least[active.models])

    def _columns(self, whole: Contention, active: _Active) -> None:
        """Columns by entries: candidates, then slacks, then lifts of one row, then more devices of a pool."""
        row_of = np.full(len(whole.rows), -1)
        row_of[active.rows] = np.arange(self._rows)
        ends = np.append(whole.starts[1:], len(whole.candidates))
        spans = [np.arange(whole.starts[d], ends[d]) for d in active.models]
        chosen = np.concatenate(spans)
        column_of = np.full(len(whole.candidates), -1)
        column_of[chosen] = np.arange(len(chosen))
        self._firsts = np.cumsum([0, *(len(span) for span in spans)])[:-1]
        owner = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
        keep = (row_of[whole.row] >= 0) & (column_of[whole.at] >= 0)
        rows = row_of[whole.row[keep]]
        at = column_of[whole.at[keep]]
        amounts = whole.amount[keep] / self._scale[rows]
        self._candidates = len(chosen)
        slack = np.arange(self._rows)
        pools = _bundles(self._names, self._scale)
        first = self._candidates + 2 * self._rows
        self._at = np.concatenate(
            [
                at,
                np.arange(self._candidates),
                self._candidates + slack,
                self._candidates + self._rows + slack,
                np.array([first + k for k, pool in enumerate(pools) for _ in pool], dtype=np.intp),
            ]
        ).astype(np.intp)
        self._row = np.concatenate(
            [
                rows,
                self._rows + owner,
                slack,
                slack,
                np.array([row for pool in pools for row, _ in pool], dtype=np.intp),
            ]
        ).astype(np.intp)
        self._value = np.concatenate(
            [
                amounts,
                np.ones(self._candidates),
                np.ones(self._rows),
                -np.ones(self._rows),
                np.array([value for pool in pools for _, value in pool]),
            ]
        )
        self._count = first + len(pools)
        self._cost = np.zeros(self._count)
        self._cost[self._candidates + self._rows : first] = _STIFF
        self._pools = [pool[0] for pool in pools]
        self._cost[first:] = [-value for _, value in self._pools]
        order = np.argsort(self._at, kind="stable")
        self._at, self._row, self._value = self._at[order], self._row[order], self._value[order]
        self._begin = np.searchsorted(self._at, np.arange(self._count + 1))

    def _start(self, least: Vector) -> None:
        """The first candidates that take least take everything; rows that are too small are lifted."""
        size = np.bincount(self._at, weights=np.abs(self._value), minlength=self._count)
        ends = np.append(self._firsts[1:], self._candidates)
        picks = [int(a + np.argmin(size[a:b])) for a, b in zip(self._firsts, ends, strict=True)]
        taken = np.zeros((self._rows, len(picks)))
        for d, k in enumerate(picks):
            column = self._column(k)
            taken[:, d] = column[: self._rows]
        left = self._limits - taken @ least
        signs = np.where(left >= 0, 1.0, -1.0)
        lift = np.where(left >= 0, 0, self._rows)
        self._basis = np.concatenate(
            [self._candidates + lift + np.arange(self._rows), np.array(picks, dtype=np.intp)]
        ).astype(np.intp)
        self._inverse = np.eye(self._size)
        self._inverse[: self._rows, : self._rows] = np.diag(signs)
        self._inverse[: self._rows, self._rows :] = -signs[:, None] * taken
        self._values = np.concatenate([np.abs(left), least])

    def _column(self, k: int) -> Vector:
        column = np.zeros(self._size)
        span = slice(self._begin[k], self._begin[k + 1])
        column[self._row[span]] = self._value[span]
        return column

    def run(self) -> bool:
        """Pivots until nothing improves; False when the work is spent before that."""
        for _ in range(max(1, MAX_WORK // self._size**2)):
            duals = self._cost[self._basis] @ self._inverse
            reduced = self._cost - np.bincount(
                self._at, weights=self._value * duals[self._row], minlength=self._count
            )
            entering = int(np.argmin(reduced))
            if reduced[entering] > -_TINY:
                return True
            direction = self._inverse @ self._column(entering)
            steps = np.where(direction > _TINY, self._values, np.inf)
            ratios = steps / np.where(direction > _TINY, direction, 1.0)
            leaving = int(np.argmin(ratios))
            if not np.isfinite(ratios[leaving]):
                return False
            self._pivot(entering, leaving, direction, float(ratios[leaving]))
        return False

    def _pivot(self, entering: int, leaving: int, direction: Vector, step: float) -> None:
        self._values = np.maximum(self._values - step * direction, 0.0)
        self._values[leaving] = step
        self._basis[leaving] = entering
        pivot = self._inverse[leaving] / direction[leaving]
        self._inverse -= np.outer(direction, pivot)
        self._inverse[leaving] = pivot

    def prices(self) -> Vector:
        """Of the rows, in their own units."""
        duals = self._cost[self._basis] @ self._inverse
        return np.maximum(-duals[: self._rows], 0.0) / self._scale

    def missing(self) -> dict[str, float]:
        """Rows that are lifted and devices that are added, with the amounts."""
        found: dict[str, float] = {}
        first = self._candidates + self._rows
        for column, value in zip(self._basis, self._values, strict=True):
            if column < first or value < 1e-5:
                continue
            k = int(column) - first
            row, part = (k, 1.0) if k < self._rows else self._pools[k - self._rows]
            name = self._names[row]
            found[name] = found.get(name, 0.0) + float(value) * abs(part) * float(self._scale[row])
        return dict(sorted(found.items()))


def _bundles(names: list[str], scale: Vector) -> list[list[tuple[int, float]]]:
    """What one addition lifts together: a device its pool's row and ladder, a failure domain that of each pool."""
    bundles: dict[str, list[tuple[int, float]]] = {}
    for row, name in sorted(enumerate(names), key=lambda entry: (entry[1].count(":"), entry[0])):
        kind, _, rest = name.partition(":")
        head, _, part = rest.partition(":")
        if kind == "devices" and (not part or part.startswith("tp")):
            amount = 1.0 / int(part[2:]) if part else 1.0
        elif kind == "spread":
            amount = 1.0
        else:
            continue
        bundles.setdefault(f"{kind}:{head}", []).append((row, -amount / float(scale[row])))
    return list(bundles.values())
