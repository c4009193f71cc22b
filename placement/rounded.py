"""A plan from the fractional one: rounded within all rows, packed on nodes, and cut back where nodes cannot take it.

Knows one table and its prices. What could still be better than the plan is the search's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from .bounds import Dual
from .demand import Demand
from .ids import ModelId
from .pack import Packer
from .relaxation import Indices, Mask, Relaxed, relax
from .rounding import Copies, Rounding
from .rows import Table

CUTS = 16
"""Times that rows are tightened because a choice could not be put on nodes."""

PACK_STEPS = 1500
"""Stages that the exact packer may try for each of them."""

POLISH = 150
"""Moves that are tried on nodes after a cut."""


class Rounder:
    """Finds plans for one table.

    Args:
        demands: each has candidates in the table, in this order.
        stay: for a candidate that replicas run in now, what leaving it costs each of them, in units of value.
    """

    def __init__(
        self,
        table: Table,
        demands: tuple[Demand, ...],
        packer: Packer,
        prices: Dual,
        *,
        stay: Mapping[int, float],
        should_stop: Callable[[], bool],
    ) -> None:
        self._table = table
        self._demands = demands
        self._packer = packer
        self._dual = prices
        self._stay = stay
        self._should_stop = should_stop
        self._own = table.of_model
        self._values = tuple(c.value for c in table.candidates)

    def plan(self) -> tuple[int, ...] | None:
        """Rounds the fractional plan and packs it; what nodes cannot take is cut off and it is tried again."""
        options = [relax(self._table, self._demands, self._values)]
        copies, allowed = self._copies(), self._one_kind()
        for attempt in range(CUTS):
            self._packer.allow(PACK_STEPS)
            rounded = ((r, self._round_one(r, copies, allowed)) for r in options)
            relaxed, chosen = next((pair for pair in rounded if pair[1] is not None), (None, None))
            if relaxed is None or chosen is None:
                return None
            packing = self._packer.pack(chosen)
            if packing.placed is not None:
                return self._polished(chosen, copies, allowed) if attempt else chosen
            assert packing.failed is not None
            options = self._cuts(relaxed, chosen, packing.failed)
        return None

    def _polished(self, chosen: tuple[int, ...], copies: Copies, allowed: Mask) -> tuple[int, ...]:
        """A plan that packs, bettered by moves that still pack: the cuts may have cut off more than they had to."""
        relaxed = relax(self._table, self._demands, self._values)
        prices = np.array([self._dual.prices[row] for row in relaxed.rows]) * relaxed.unit
        rounding = Rounding(relaxed, prices, copies, allowed)
        rounding.start(self._by_copy(chosen, rounding.nothing, copies))
        left = POLISH
        while left > 0 and not self._should_stop():
            for moves in rounding.proposals():
                left -= 1
                back = rounding.chosen.copy()
                rounding.apply(moves)
                better = self._covered(rounding)
                if better is not None and self._packer.pack(better).placed is not None:
                    chosen = better
                    break
                rounding.start(back)
                if left <= 0:
                    return chosen
            else:
                return chosen
        return chosen

    def _by_copy(self, chosen: Sequence[int], nothing: int, copies: Copies) -> Indices:
        """The choices in the order of the copies; those that stay at home first."""
        left = Counter(chosen)
        found = np.full(len(copies), nothing, dtype=np.intp)
        for copy, home in enumerate(copies.home.tolist()):
            if left[home] > 0:
                found[copy] = home
                left[home] -= 1
        position = {demand.id: m for m, demand in enumerate(self._demands)}
        rest: dict[int, list[int]] = defaultdict(list)
        for k in left.elements():
            rest[position[self._table.candidates[k].model]].append(k)
        for copy, model in enumerate(copies.model.tolist()):
            if found[copy] == nothing and rest[model]:
                found[copy] = rest[model].pop()
        return found

    def _round_one(self, relaxed: Relaxed, copies: Copies, allowed: Mask) -> tuple[int, ...] | None:
        """Choices within every row, or None."""
        prices = np.zeros(len(relaxed.limits))
        priced = np.array([self._dual.prices[row] for row in relaxed.rows])
        prices[: len(priced)] = priced * relaxed.unit[: len(priced)]
        rounding = Rounding(relaxed, prices, copies, allowed)
        rounding.round(np.array(self._dual.weights), np.array(self._dual.optional))
        if not rounding.repair():
            return None
        rounding.improve()
        return self._covered(rounding)

    def _copies(self) -> Copies:
        """One entry per copy; those that run now first, the most worth first."""
        model: list[int] = []
        home: list[int] = []
        stay: list[float] = []
        for m, demand in enumerate(self._demands):
            running = [k for k in self._own[demand.id] for _ in self._packer.running.get(k, ())]
            running.sort(key=lambda k: -self._values[k] - self._stay.get(k, 0.0))
            homes = (running + [-1] * demand.replicas_max)[: demand.replicas_max]
            model += [m] * demand.replicas_max
            home += homes
            stay += [self._stay.get(k, 0.0) for k in homes]
        return Copies(
            model=np.array(model, np.intp), home=np.array(home, np.intp), stay=np.array(stay)
        )

    def _one_kind(self) -> Mask:
        """Candidates without those of a model's lesser kind: a model is served by real or by emulated engines."""
        allowed = np.ones(len(self._values), dtype=np.bool_)
        for own in self._own.values():
            emulated = [self._table.candidates[k].pool.emulated for k in own]
            if any(emulated) and not all(emulated):
                weight: dict[bool, float] = defaultdict(float)
                for k, kind in zip(own, emulated, strict=True):
                    there = 1e6 * (k in self._packer.running)
                    weight[kind] += self._dual.weights[k] + there
                for k, kind in zip(own, emulated, strict=True):
                    allowed[k] = kind == (weight[True] > weight[False])
        return allowed

    def _covered(self, rounding: Rounding) -> tuple[int, ...] | None:
        """The choices, without those of optional models that miss their minimum throughput; None when a model must run."""
        chosen = [k for k in rounding.chosen.tolist() if k != rounding.nothing]
        reached: dict[ModelId, float] = defaultdict(float)
        for k in chosen:
            candidate = self._table.candidates[k]
            reached[candidate.model] += candidate.predicted.tokens_per_s
        missed = {
            d.id: d.replicas_min
            for d in self._demands
            if d.id in reached and reached[d.id] < (d.min_tokens_per_s or 0.0) * (1 - 1e-9)
        }
        if any(missed.values()):
            return None
        return tuple(k for k in chosen if self._table.candidates[k].model not in missed)

    def _cuts(self, relaxed: Relaxed, chosen: Sequence[int], failed: int) -> list[Relaxed]:
        """The relaxation with a cut, several ways: fewer of that model in the pool, or less of the pool altogether."""
        candidate = self._table.candidates[failed]
        pool, demand = candidate.pool.name, candidate.option.demand
        same = [k for k in self._own[demand.id] if self._table.candidates[k].pool.name == pool]
        there = sum(k in same for k in chosen)
        column = np.zeros((len(relaxed.values), 1))
        column[same] = 1.0 / there
        fewer = replace(
            relaxed,
            usage=np.hstack([relaxed.usage, column]),
            limits=np.append(relaxed.limits, (there - 1) / there),
        )
        inside = [k for k in chosen if self._table.candidates[k].pool.name == pool]
        largest = max(inside, key=lambda k: self._table.candidates[k].layout.tp)
        tighter = [self._closed(relaxed, k) for k in dict.fromkeys((failed, largest))]
        return [fewer, *tighter] if demand.spread != "none" else [*tighter, fewer]

    def _closed(self, relaxed: Relaxed, k: int) -> Relaxed:
        """One group like that of a candidate less in its pool."""
        name, layout = self._table.candidates[k].pool.name, self._table.candidates[k].layout
        limits = relaxed.limits.copy()
        rows = {row: position for position, row in enumerate(relaxed.rows.tolist())}
        for row, amount in self._table.usage[k]:
            if row in rows and self._table.rows[row].name.startswith(f"devices:{name}"):
                limits[rows[row]] -= amount / layout.pp / relaxed.unit[rows[row]]
        return replace(relaxed, limits=limits)
