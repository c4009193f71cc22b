"""What the copies that must run take of what they share, in arrays: the necessary conditions of a plan.

A price on each row proves a conflict when even the cheapest configurations cost more than all rows are worth (Farkas): then
no plan exists, whole copies or not. Knows rows by their names only; finding such prices is `elastic`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from .candidates import enumerate_options
from .constraint import Candidate
from .demand import Demand
from .ids import ModelId
from .pools import collapse, node_rejections
from .problem import Problem, facts_of
from .roofline import slowest_hop
from .rows import tabulate

Vector = NDArray[np.float64]
Index = NDArray[np.intp]

CERTAIN = 1e-6
"""Relative excess over the worth of all rows above which a conflict is proven in spite of rounding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contention:
    """Models that must run, their configurations, and the rows over these.

    Attributes:
        least: copies of each model that must run.
        priority: of each model.
        starts: first candidate of each model; candidates lie together by model.
        limits: of the rows, all >= 0.
        at, row, amount: the non-zero entries: candidate, row, what one copy takes (> 0).
        hopeless: models that must run and have no configuration at all, or too slow ones only.
        candidates: by position; for those who want to know what stands behind one.
    """

    models: tuple[ModelId, ...]
    least: Vector
    priority: Vector
    starts: Index
    rows: tuple[str, ...]
    limits: Vector
    at: Index
    row: Index
    amount: Vector
    hopeless: tuple[ModelId, ...]
    candidates: tuple[Candidate, ...]

    def cheapest(self, prices: Vector) -> Vector:
        """What one copy of each model costs at least."""
        if not self.models:
            return np.zeros(0)
        costs = np.bincount(
            self.at, weights=self.amount * prices[self.row], minlength=len(self.candidates)
        )
        return np.minimum.reduceat(costs, self.starts)

    def excess(self, prices: Vector) -> float:
        """By how much the copies that must run cost more than all rows are worth, as a part of that; > 0 is a proof."""
        worth = float(prices @ self.limits)
        taken = float(self.least @ self.cheapest(prices))
        return (taken - worth) / max(worth, taken, 1e-300)

    def proves(self, prices: Vector) -> bool:
        """Whether no plan exists, shown by these prices."""
        return self.excess(prices) > CERTAIN

    def fewest(self, prices: Vector) -> tuple[ModelId, ...]:
        """Few models that prove it as well as all: those that take most, the important first among equals."""
        costs = self.least * self.cheapest(prices)
        worth = float(prices @ self.limits) * (1 + 2 * CERTAIN)
        order = sorted(range(len(costs)), key=lambda d: (-costs[d], -self.priority[d], d))
        kept: list[int] = []
        taken = 0.0
        for d in order:
            if taken > worth:
                break
            kept.append(d)
            taken += costs[d]
        return tuple(self.models[d] for d in sorted(kept))

    def among(self, models: Iterable[ModelId]) -> Contention:
        """The same with copies of some models only."""
        wanted = set(models)
        chosen = np.array([model in wanted for model in self.models], dtype=bool)
        return replace(self, least=np.where(chosen, self.least, 0.0))

    def with_least(self, least: Vector) -> Contention:
        """The same with other numbers of copies."""
        return replace(self, least=least)


def contention(problem: Problem, only: ModelId | None = None) -> Contention:
    """What the models of a problem that must run compete for; with `only`, what that model alone takes of it."""
    app, inventory = problem.app, problem.inventory
    wanted = tuple(d for d in app.demands if d.replicas_min > 0 and only in (None, d.id))
    pools = collapse(app.demands, inventory, node_rejections(app.demands, inventory))
    hop = slowest_hop(inventory)
    found = {
        d.id: enumerate_options(d, facts_of(d, inventory), pools, app.policy, hop).candidates
        for d in wanted
    }
    table = tabulate(app, inventory, pools, tuple(c for own in found.values() for c in own))
    rates: dict[ModelId, float] = {}
    for candidate in table.candidates:
        rate = candidate.predicted.tokens_per_s
        rates[candidate.model] = max(rate, rates.get(candidate.model, 0.0))
    able = tuple(d for d in wanted if d.id in rates and copies(d, rates[d.id]) <= d.replicas_max)
    position = {d.id: k for k, d in enumerate(able)}
    kept = [k for k, c in enumerate(table.candidates) if c.model in position]
    kept.sort(key=lambda k: position[table.candidates[k].model])
    owners = [position[table.candidates[k].model] for k in kept]
    limited = [r for r, row in enumerate(table.rows) if row.limit >= 0]
    entries = _entries(table.usage, kept, limited)
    return Contention(
        models=tuple(d.id for d in able),
        least=np.array([float(copies(d, rates[d.id])) for d in able]),
        priority=np.array([float(d.priority) for d in able]),
        starts=np.searchsorted(np.array(owners, dtype=np.intp), np.arange(len(able))),
        rows=tuple(table.rows[r].name for r in limited),
        limits=np.array([table.rows[r].limit for r in limited]),
        at=np.array([k for k, _, _ in entries], dtype=np.intp),
        row=np.array([r for _, r, _ in entries], dtype=np.intp),
        amount=np.array([amount for _, _, amount in entries]),
        hopeless=tuple(d.id for d in wanted if d.id not in position),
        candidates=tuple(table.candidates[k] for k in kept),
    )


def copies(demand: Demand, best_tokens_per_s: float) -> int:
    """Copies that must run: the minimum, and as many as its throughput takes at best."""
    wanted = demand.min_tokens_per_s or 0.0
    return max(demand.replicas_min, ceil(wanted / best_tokens_per_s * (1 - 1e-9)))


def _entries(
    usage: tuple[tuple[tuple[int, float], ...], ...], kept: list[int], limited: list[int]
) -> list[tuple[int, int, float]]:
    position = {r: k for k, r in enumerate(limited)}
    return [
        (at, position[r], amount)
        for at, k in enumerate(kept)
        for r, amount in usage[k]
        if r in position and amount > 0
    ]
