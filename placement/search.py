"""Finds the best set of replicas for a table: bound, rounding, packing, exact search, neighbourhoods. Deterministic for a seed.

Knows candidates and rows, not where they come from; says honestly how far it got.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from .bounds import Dual, dual
from .csp import Capacity, Choice, Coverage, Incremental, Ordered, PricedSolver, Uniform
from .demand import Demand
from .ids import ModelId, slot_id
from .labels import better_plans
from .mixes import best_mix
from .pack import Packer, Placed
from .proof import Proof
from .pyconstraint import CspProblem
from .relaxation import relax
from .rounded import Rounder
from .rows import Table

ENOUGH = 1e-4
"""Gap at which the search stops looking for something better, in plans that are too large to be proven."""

PROVABLE = 60
"""Copies up to which the exact search is tried."""

FIRST_STEPS = 1500
"""Values tried by the exact search of the whole."""

EXTENSIONS = 60_000_000
"""Partial plans judged when something better is known to exist."""

MANY = 4
"""Copies beyond the minimum from which all copies of a model are chosen anew together."""

LEAVES = 200
"""Better plans within all rows that are tried on nodes."""

SMALLEST_STEPS = 5000
"""Values tried, smallest configurations first, when nothing else found a plan."""

ROUNDS, ROUND_STEPS, ROUND_PACK_STEPS = 120, 300, 150
"""Neighbourhoods searched, values tried in each, and stages that the exact packer may try in each."""

PACK_STEPS = 1500
"""Stages that the exact packer may try in each search of the whole."""

FREED, ADDED = 4, 3
"""Placed and unplaced copies that a neighbourhood holds at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The outcome of a search.

    Attributes:
        placed: the replicas on their devices; None = none found.
        complete: every alternative was searched or ruled out.
        proved: by who shares no code with the search.
    """

    placed: tuple[Placed, ...] | None
    value: float
    dual: Dual
    complete: bool
    proved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """A search within a fixed rest.

    Attributes:
        fixed: candidates of the copies that stay.
        demands: what is searched, with the copies that are free.
        prices, reduced: of rows and of candidates, which price the search.
        small: smallest configurations first, instead of the best.
        incumbent: worth of what the free copies have now.
    """

    fixed: tuple[int, ...]
    demands: tuple[Demand, ...]
    prices: Sequence[float]
    reduced: Sequence[float]
    small: bool = False
    incumbent: float = -inf


class Search:
    """One search over a table.

    Args:
        demands: each has candidates in the table, in this order.
        most: copies that were asked for of each, also where there is no room for them: the bound is over these.
        stay: for a candidate that replicas run in now, what leaving it costs each of them, in units of value.
        known: prices of rows by name from which the bound starts.
        first: the first plan found will do.
        prove: whether anything is worth more than a plan, by who shares no code with the search; takes prices and the worth.
        lp: prices from a linear program instead of the smoothed dual.
    """

    def __init__(
        self,
        table: Table,
        demands: tuple[Demand, ...],
        packer: Packer,
        *,
        most: Sequence[int],
        should_stop: Callable[[], bool],
        stay: Mapping[int, float],
        known: Mapping[str, float] | None = None,
        prove: Callable[[Sequence[float], float], Proof],
        seed: int = 0,
        first: bool = False,
        lp: bool = False,
    ) -> None:
        self._prove = prove
        self._table = table
        self._in_order = demands
        self._demands = tuple(sorted(demands, key=lambda d: (-d.priority, -d.replicas_min)))
        self._packer = packer
        self._should_stop = should_stop
        self._stay = stay
        self._seed = seed
        self._first = first
        self._values = tuple(c.value for c in table.candidates)
        self._worths = tuple(v + stay.get(k, 0.0) for k, v in enumerate(self._values))
        asked = [replace(d, replicas_max=n) for d, n in zip(demands, most, strict=True)]
        self._dual = dual(table, asked, self._values, known, lp=lp)
        self._own = table.of_model
        self._whole = _Frame(
            fixed=(),
            demands=self._demands,
            prices=self._dual.prices,
            reduced=tuple(r + stay.get(k, 0.0) for k, r in enumerate(self._dual.reduced)),
        )

    def run(self) -> Found:
        """The best replicas found, and whether they are known to be the best."""
        if not self._values:
            return self._found((), complete=True)
        if self._dual.impossible:
            return Found(placed=None, value=0.0, dual=self._dual, complete=True)
        chosen = Rounder(
            self._table,
            self._in_order,
            self._packer,
            self._dual,
            stay=self._stay,
            should_stop=self._should_stop,
        ).plan()
        if chosen is not None and (self._first or self._near(chosen)):
            return self._found(chosen, complete=False)
        if chosen is not None:
            chosen = self._mixed(chosen)
        if sum(d.replicas_max for d in self._demands) <= PROVABLE:
            return self._proven(chosen)
        if chosen is None:
            chosen = self._smallest()
        if chosen is None:
            return self._found(None, complete=False)
        # What runs is disturbed as little as the rounding found necessary.
        return self._found(chosen if self._stay else self._improve(chosen), complete=False)

    def _mixed(self, chosen: tuple[int, ...]) -> tuple[int, ...]:
        """With the copies of each model of many copies chosen anew, where that is better and packs."""
        relaxed = relax(self._table, self._in_order, self._values)
        if len(relaxed.rows) < len(self._table.rows):
            return chosen
        prices = np.array([self._dual.prices[row] for row in relaxed.rows]) * relaxed.unit
        for m, demand in enumerate(self._in_order):
            spare = demand.replicas_max - demand.replicas_min
            if spare < MANY or demand.min_tokens_per_s is not None or self._should_stop():
                continue
            own = set(self._own[demand.id])
            others = [k for k in chosen if k not in own]
            room = relaxed.limits - relaxed.usage[others].sum(axis=0)
            mix = best_mix(relaxed, prices, np.array(self._dual.weights), m, room)
            after = (*others, *mix)
            if len(mix) < demand.replicas_min or not self._admits(mix):
                continue
            if self._worth(after) > self._worth(chosen) and self._packer.pack(after).placed:
                chosen = after
        return chosen

    def _near(self, chosen: Sequence[int]) -> bool:
        """Whether nothing is left to gain, as far as the bound tells."""
        copies = sum(d.replicas_max for d in self._demands)
        gap = self._dual.bound - sum(self._values[k] for k in chosen)
        return gap <= (1e-9 if copies <= PROVABLE else ENOUGH) * abs(self._dual.bound)

    # -- exact search and neighbourhoods ----------------------------------------------------------------------------

    def _proven(self, chosen: tuple[int, ...] | None) -> Found:
        """For few copies: everything that could be better, as far as the steps go."""
        whole = replace(self._whole, incumbent=self._worth(chosen))
        self._packer.allow(PACK_STEPS)
        solver = self._solve(whole, FIRST_STEPS, first=self._first)
        found = self._better(_chosen(solver), chosen)
        if solver.complete and not self._first:
            return self._found(found, complete=not self._stay)
        if found is None:
            found = self._smallest()
        if found is None and not any(d.replicas_min for d in self._demands):
            found = ()
        if found is None or self._first:
            return self._found(found, complete=False)
        if self._stay:
            return self._found(self._improve(found), complete=False)
        if self._should_stop():
            return self._found(found, complete=False)
        proof = self._prove(self._dual.prices, self._worth(found))
        if proof.better is None:
            if not proof.complete:
                return self._found(self._improve(found), complete=False)
            return replace(self._found(found, complete=True), proved=True)
        found, complete = self._exhausted(self._improve(found))
        return self._found(found, complete=complete)

    def _exhausted(self, chosen: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
        """The best choice of all that are better and pack, and whether none was left out."""
        relaxed = relax(self._table, self._in_order, self._values)
        if len(relaxed.rows) < len(self._table.rows):
            return chosen, False
        prices = np.array([self._dual.prices[row] for row in relaxed.rows]) * relaxed.unit
        better = better_plans(
            relaxed,
            prices,
            self._worth(chosen),
            admits=self._admits,
            extensions=EXTENSIONS,
            should_stop=self._should_stop,
        )
        self._packer.allow(PACK_STEPS)
        complete = better.complete
        for plan in better.plans[:LEAVES]:
            packing = self._packer.pack(plan)
            if packing.placed is not None:
                return plan, complete
            complete = complete and packing.exact
        return chosen, complete and len(better.plans) <= LEAVES

    def _admits(self, chosen: Sequence[int]) -> bool:
        """What holds within one model whatever others do: one kind of engine, and the minimum throughput."""
        candidates = [self._table.candidates[k] for k in chosen]
        if len({c.pool.emulated for c in candidates}) > 1:
            return False
        wanted = candidates[0].option.demand.min_tokens_per_s if candidates else None
        reached = sum(c.predicted.tokens_per_s for c in candidates)
        return wanted is None or reached >= wanted * (1 - 1e-9)

    def _better(
        self, one: tuple[int, ...] | None, other: tuple[int, ...] | None
    ) -> tuple[int, ...] | None:
        return one if self._worth(one) > self._worth(other) else other

    def _smallest(self) -> tuple[int, ...] | None:
        """Any plan: the smallest configurations first."""
        self._packer.allow(PACK_STEPS)
        whole = replace(self._whole, small=True)
        return _chosen(self._solve(whole, SMALLEST_STEPS, first=True))

    def _found(self, chosen: tuple[int, ...] | None, complete: bool) -> Found:
        if chosen is None:
            return Found(placed=None, value=0.0, dual=self._dual, complete=complete)
        return Found(
            placed=self._packer.pack(chosen).placed,
            value=sum(self._values[k] for k in chosen),
            dual=self._dual,
            complete=complete,
        )

    def _worth(self, chosen: Sequence[int] | None) -> float:
        """Value of choices with what staying is worth; each running replica counts once."""
        if chosen is None:
            return -inf
        counts = Counter(chosen)
        stays = sum(
            min(counts[k], len(slots)) * self._stay.get(k, 0.0)
            for k, slots in self._packer.running.items()
        )
        return sum(self._values[k] for k in chosen) + stays

    def _improve(self, chosen: tuple[int, ...]) -> tuple[int, ...]:
        """Frees a few copies at a time, together with unplaced ones, and searches these alone."""
        draw = _Draw(self._seed)
        for _ in range(ROUNDS):
            if self._should_stop() or self._near(chosen):
                break
            self._packer.allow(ROUND_PACK_STEPS)
            solver = self._solve(frame := self._neighbourhood(chosen, draw), ROUND_STEPS)
            better = _chosen(solver)
            if better is None:
                continue
            after = (*frame.fixed, *better)
            if self._worth(after) > self._worth(chosen) * (1 + 1e-9):
                chosen = after
        return chosen

    def _neighbourhood(self, chosen: tuple[int, ...], draw: _Draw) -> _Frame:
        rest = list(chosen)
        freed = tuple(rest.pop(draw.below(len(rest))) for _ in range(min(FREED, len(rest))))
        fixed, free = self._count(rest), self._count(freed)
        missing = [
            d.id for d in self._demands for _ in range(d.replicas_max - fixed[d.id] - free[d.id])
        ]
        added = Counter(
            missing.pop(draw.below(len(missing))) for _ in range(min(ADDED, len(missing)))
        )
        demands = tuple(
            replace(
                d,
                replicas_min=max(0, d.replicas_min - fixed[d.id]),
                replicas_max=free[d.id] + added[d.id],
            )
            for d in self._demands
            if free[d.id] + added[d.id]
        )
        worth = self._worth(chosen) - self._worth(rest)
        return replace(self._whole, fixed=tuple(rest), demands=demands, incumbent=worth)

    def _count(self, chosen: Sequence[int]) -> Counter[ModelId]:
        return Counter(self._table.candidates[k].model for k in chosen)

    def _solve(self, frame: _Frame, max_steps: int, *, first: bool = False) -> PricedSolver:
        limits = [row.limit for row in self._table.rows]
        for k in frame.fixed:
            for row, amount in self._table.usage[k]:
                limits[row] -= amount
        variables: list[tuple[str, list[Choice]]] = []
        rules: list[tuple[Incremental, list[str]]] = []
        bound = sum(p * b for p, b in zip(frame.prices, limits, strict=True))
        for demand in frame.demands:
            must, may = (self._choices(frame, demand, optional=o) for o in (False, True))
            own = [str(slot_id(demand.id, k)) for k in range(demand.replicas_max)]
            domains = [must if k < demand.replicas_min else may for k in range(len(own))]
            variables.extend(zip(own, domains, strict=True))
            rules.extend((rule, own) for rule in self._rules(frame, demand) if own)
            bound += sum(self._reference(frame, demand, optional=d is may) for d in domains)
        capacity = Capacity(limits, frame.prices, self._useful(variables, bound, frame))
        rules.append((capacity, [name for name, _ in variables]))
        solver = PricedSolver(
            bound=bound,
            packs=lambda free: self._packs((*frame.fixed, *free)),
            should_stop=self._should_stop,
            max_steps=max_steps,
            first=first or self._first,
            incumbent=frame.incumbent,
            waste=lambda: capacity.waste,
        )
        _search(solver, variables, rules)
        return solver

    def _useful(
        self, variables: list[tuple[str, list[Choice]]], bound: float, frame: _Frame
    ) -> list[list[Choice]]:
        """The domains without values that alone give up too much to better the incumbent."""
        allowed = bound - frame.incumbent
        return [[c for c in domain if c.loss <= allowed] or domain for _, domain in variables]

    def _packs(self, chosen: Sequence[int]) -> tuple[bool, bool]:
        packing = self._packer.pack(chosen)
        return packing.placed is not None, packing.exact

    def _reference(self, frame: _Frame, demand: Demand, *, optional: bool) -> float:
        """The best reduced worth of one copy."""
        best = max(frame.reduced[k] for k in self._own[demand.id])
        return max(best, 0.0) if optional else best

    def _choices(self, frame: _Frame, demand: Demand, *, optional: bool) -> list[Choice]:
        """The values of one copy, least loss first (or smallest first); an optional copy may also stay unplaced."""
        reduced, values = frame.reduced, self._worths
        own = sorted(self._own[demand.id], key=lambda k: (-reduced[k], -values[k], k))
        if frame.small:
            own.sort(key=self._size)
        reference = self._reference(frame, demand, optional=optional)
        choices = [
            Choice(
                model=demand.id,
                candidate=k,
                value=values[k],
                loss=reference - reduced[k],
                rank=float(rank),
                usage=self._table.usage[k],
                emulated=self._table.candidates[k].pool.emulated,
                tokens_per_s=self._table.candidates[k].predicted.tokens_per_s,
            )
            for rank, k in enumerate(own)
        ]
        if optional:
            nothing = Choice(model=demand.id, candidate=None, value=0.0, loss=reference, rank=inf)
            choices.append(nothing)
        return choices if frame.small else sorted(choices, key=lambda c: (c.loss, c.rank))

    def _size(self, candidate: int) -> float:
        """The largest part of a row that it takes."""
        rows = self._table.rows
        usage = self._table.usage[candidate]
        return max((amount / max(rows[row].limit, 1e-9) for row, amount in usage), default=0.0)

    def _rules(self, frame: _Frame, demand: Demand) -> list[Incremental]:
        """What holds within one model, the cheap rules first."""
        candidates = self._table.candidates
        fixed = [candidates[k] for k in frame.fixed if candidates[k].model == demand.id]
        rules: list[Incremental] = [Ordered(), Uniform([c.pool.emulated for c in fixed])]
        if demand.min_tokens_per_s is not None:
            best = max(candidates[k].predicted.tokens_per_s for k in self._own[demand.id])
            there = sum(c.predicted.tokens_per_s for c in fixed)
            missing = demand.min_tokens_per_s - there
            rules.append(Coverage(missing, demand.replicas_max, best, waivable=not fixed))
        return rules


def _search(
    solver: PricedSolver,
    variables: list[tuple[str, list[Choice]]],
    rules: list[tuple[Incremental, list[str]]],
) -> None:
    """Hands the search to the library; with nothing to choose the library would refuse."""
    if not variables:
        solver.getSolution({}, [], {})
        return
    csp = CspProblem(solver)
    for name, domain in variables:
        csp.addVariable(name, domain)
    for rule, names in rules:
        csp.addConstraint(rule, names)
    csp.getSolution()


def _chosen(solver: PricedSolver) -> tuple[int, ...] | None:
    if solver.best is None:
        return None
    return tuple(c.candidate for c in solver.best if c.candidate is not None)


class _Draw:
    """A reproducible stream of numbers: a linear congruential generator (Knuth's MMIX constants)."""

    def __init__(self, seed: int) -> None:
        self._state = seed & 0xFFFFFFFFFFFFFFFF

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 33) % limit
