"""Finds the best set of replicas for a table: bound, branch and bound, neighbourhoods, packing. Deterministic for a seed.

Knows candidates and rows, not where they come from; says honestly how far it got.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

from .bounds import Dual, dual
from .csp import Capacity, Choice, Coverage, Incremental, Ordered, PricedSolver, Uniform
from .demand import Demand
from .ids import ModelId, slot_id
from .pack import Packer, Placed
from .pyconstraint import CspProblem
from .rows import Table

KEEP_BONUS = 1e-9
"""Relative worth of running on: it decides between equals and is far below the proof's tolerance."""

FIRST_STEPS, LAST_STEPS = 5000, 5000
"""Values tried by the whole search before and after the neighbourhoods."""

ROUNDS, ROUND_STEPS, ROUND_PACK_STEPS = 120, 300, 150
"""Neighbourhoods searched, values tried in each, and stages that the packer may try in each."""

PACK_STEPS = 6000
"""Stages that the packer may try in each search of the whole."""

FREED, ADDED = 4, 3
"""Placed and unplaced copies that a neighbourhood holds at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The outcome of a search.

    Attributes:
        placed: the replicas on their devices; None = none found.
        complete: every alternative was searched or ruled out.
    """

    placed: tuple[Placed, ...] | None
    value: float
    dual: Dual
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """A search within a fixed rest.

    Attributes:
        fixed: candidates of the copies that stay.
        demands: what is searched, with the copies that are free.
        small: smallest configurations first, instead of the best.
        incumbent: worth of what the free copies have now.
    """

    fixed: tuple[int, ...]
    demands: tuple[Demand, ...]
    small: bool = False
    incumbent: float = -inf


class Search:
    """One search over a table.

    Args:
        demands: each has candidates in the table, in this order.
        first: the first plan found will do.
    """

    def __init__(
        self,
        table: Table,
        demands: tuple[Demand, ...],
        packer: Packer,
        *,
        should_stop: Callable[[], bool],
        seed: int = 0,
        first: bool = False,
    ) -> None:
        self._table = table
        self._demands = tuple(sorted(demands, key=lambda d: (-d.priority, -d.replicas_min)))
        self._packer = packer
        self._should_stop = should_stop
        self._seed = seed
        self._first = first
        self._values = tuple(
            c.value * (1 + KEEP_BONUS * packer.continues(k)) for k, c in enumerate(table.candidates)
        )
        self._dual = dual(table, demands, self._values)
        self._own: dict[ModelId, tuple[int, ...]] = {
            d.id: tuple(k for k, c in enumerate(table.candidates) if c.model == d.id)
            for d in demands
        }

    def run(self) -> Found:
        """The best replicas found, and whether they are known to be the best."""
        whole = _Frame(fixed=(), demands=self._demands)
        self._packer.allow(PACK_STEPS)
        solver = self._solve(whole, FIRST_STEPS)
        if solver.best is None and not solver.complete:
            self._packer.allow(PACK_STEPS)
            solver = self._solve(replace(whole, small=True), FIRST_STEPS, first=True)
            if solver.best is not None:
                solver.complete = False
        if solver.best is None and not any(d.replicas_min for d in self._demands):
            return self._found((), complete=False)
        if solver.best is None or solver.complete or self._first:
            return self._found(_chosen(solver), solver.complete and not self._first)
        chosen = self._improve(_chosen(solver) or ())
        self._packer.allow(PACK_STEPS)
        last = replace(whole, incumbent=self._worth(chosen))
        solver = self._solve(last, LAST_STEPS)
        return self._found(_chosen(solver) or chosen, solver.complete)

    def _found(self, chosen: tuple[int, ...] | None, complete: bool) -> Found:
        if chosen is None:
            return Found(placed=None, value=0.0, dual=self._dual, complete=complete)
        return Found(
            placed=self._packer.pack(chosen).placed,
            value=sum(self._table.candidates[k].value for k in chosen),
            dual=self._dual,
            complete=complete,
        )

    def _worth(self, chosen: Sequence[int]) -> float:
        return sum(self._values[k] for k in chosen)

    def _improve(self, chosen: tuple[int, ...]) -> tuple[int, ...]:
        """Frees a few copies at a time, together with unplaced ones, and searches these alone."""
        draw = _Draw(self._seed)
        for _ in range(ROUNDS):
            if self._should_stop():
                break
            self._packer.allow(ROUND_PACK_STEPS)
            frame, freed = self._neighbourhood(chosen, draw)
            solver = self._solve(frame, ROUND_STEPS)
            better = _chosen(solver)
            if better is not None and self._worth(better) > self._worth(freed) * (1 + 1e-9):
                chosen = (*frame.fixed, *better)
        return chosen

    def _neighbourhood(
        self, chosen: tuple[int, ...], draw: _Draw
    ) -> tuple[_Frame, tuple[int, ...]]:
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
        frame = _Frame(fixed=tuple(rest), demands=demands, incumbent=self._worth(freed))
        return frame, freed

    def _count(self, chosen: Sequence[int]) -> Counter[ModelId]:
        return Counter(self._table.candidates[k].model for k in chosen)

    def _solve(self, frame: _Frame, max_steps: int, *, first: bool = False) -> PricedSolver:
        limits = [row.limit for row in self._table.rows]
        for k in frame.fixed:
            for row, amount in self._table.usage[k]:
                limits[row] -= amount
        variables: list[tuple[str, list[Choice]]] = []
        rules: list[tuple[Incremental, list[str]]] = []
        bound = sum(p * b for p, b in zip(self._dual.prices, limits, strict=True))
        for demand in frame.demands:
            must, may = (self._choices(frame, demand, optional=o) for o in (False, True))
            own = [str(slot_id(demand.id, k)) for k in range(demand.replicas_max)]
            domains = [must if k < demand.replicas_min else may for k in range(len(own))]
            variables.extend(zip(own, domains, strict=True))
            rules.extend((rule, own) for rule in self._rules(frame, demand) if own)
            bound += sum(self._reference(demand, optional=d is may) for d in domains)
        rules.append((Capacity(limits), [name for name, _ in variables]))
        solver = PricedSolver(
            bound=bound,
            packs=lambda free: self._packs((*frame.fixed, *free)),
            should_stop=self._should_stop,
            max_steps=max_steps,
            first=first or self._first,
            incumbent=frame.incumbent,
        )
        _search(solver, variables, rules)
        return solver

    def _packs(self, chosen: Sequence[int]) -> tuple[bool, bool]:
        packing = self._packer.pack(chosen)
        return packing.placed is not None, packing.exact

    def _reference(self, demand: Demand, *, optional: bool) -> float:
        """The best reduced worth of one copy."""
        best = max(self._dual.reduced[k] for k in self._own[demand.id])
        return max(best, 0.0) if optional else best

    def _choices(self, frame: _Frame, demand: Demand, *, optional: bool) -> list[Choice]:
        """The values of one copy, least loss first (or smallest first); an optional copy may also stay unplaced."""
        reduced, values = self._dual.reduced, self._values
        own = sorted(self._own[demand.id], key=lambda k: (-reduced[k], -values[k], k))
        if frame.small:
            own.sort(key=self._size)
        reference = self._reference(demand, optional=optional)
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
