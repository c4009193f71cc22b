"""What the copies that must run take of what they share, in arrays: the necessary conditions of a plan.

A price on each row proves a conflict when even the cheapest configurations cost more than all rows are worth (Farkas): then
no plan exists, whole copies or not. Knows rows by their names only; finding such prices is `elastic`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from .candidates import Asked, enumerate_options
from .constraint import Candidate
from .demand import App, Demand
from .ids import ModelId
from .pools import collapse, node_rejections
from .problem import Problem, facts_of
from .roofline import slowest_hop
from .rows import Table, tabulate

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
    pools = collapse(app.demands, inventory, node_rejections(app.demands, inventory))
    asked = tuple(
        Asked(demand=d, facts=facts)
        for d in _must_run(app)
        if only in (None, d.id) and (facts := facts_of(d, inventory))
    )
    found = enumerate_options(
        asked, pools, app, slowest_hop(inventory), None, inventory.calibrations, inventory.engines
    )
    return contention_of(app, tabulate(app, inventory, pools, found.candidates), only)


def contention_of(app: App, table: Table, only: ModelId | None = None) -> Contention:
    """The same of a table that is there already."""
    wanted = tuple(d for d in _must_run(app) if only in (None, d.id))
    rates = {
        d.id: max(table.candidates[k].predicted.tokens_per_s for k in own)
        for d in wanted
        if (own := table.of_model.get(d.id))
    }
    able = tuple(d for d in wanted if d.id in rates and copies(d, rates[d.id]) <= d.replicas_max)
    spans = [table.of_model[d.id] for d in able]
    kept = [k for own in spans for k in own]
    # A row below 0 is a minimum of throughput, which `copies` counts in.
    limited = [r for r, row in enumerate(table.rows) if row.limit >= 0]
    entries = _entries(table.usage, kept, limited)
    return Contention(
        models=tuple(d.id for d in able),
        least=np.array([float(copies(d, rates[d.id])) for d in able]),
        priority=np.array([float(d.priority) for d in able]),
        starts=np.cumsum([0, *map(len, spans)], dtype=np.intp)[:-1],
        rows=tuple(table.rows[r].name for r in limited),
        limits=np.array([table.rows[r].limit for r in limited]),
        at=np.array([k for k, _, _ in entries], dtype=np.intp),
        row=np.array([r for _, r, _ in entries], dtype=np.intp),
        amount=np.array([amount for _, _, amount in entries]),
        hopeless=tuple(d.id for d in wanted if d.id not in {a.id for a in able}),
        candidates=tuple(table.candidates[k] for k in kept),
    )


def _must_run(app: App) -> Iterator[Demand]:
    return (d for d in app.demands if d.replicas_min > 0)


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
