"""Whether any plan is worth more than a value: the verifier's own complete search, over losses, with bounded steps.

At prices, every plan's value is the bound less its losses: what each replica gives up against the best option of its model, and
the price of what stays free. A better plan loses less than bound - value in all, so most options drop out at once. Partial
plans grow model by model, a whole array of them at a time; those that are left at the end are tried on the nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .demand import Demand
from .problem import Problem
from .proof_growth import Demands, Mask, Partials, grow, nothing_yet
from .proof_options import Option
from .proof_outlook import Choices, Outlook, Table, Vector
from .proof_rows import SLACK, Instance, by_scope, instance_of, over, priced
from .proof_seats import OutOfSteps, Steps, seat
from .proof_ways import Asked, Ways, or_none, stands_in, ways_of

MAX_STEPS = 60_000_000
"""Steps within which a claim must be repeatable, two seconds or three; who makes a claim may well use fewer."""

RELATIVE = 1e-6
"""A plan counts as better when it is worth more by this part of the bound."""

_MOST_COPIES = 400
"""More copies than this are not searched."""

_MOST_FORESEEN = 100
"""Optional copies of one model up to which it is foreseen what those to come lose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a search for a better plan found.

    Attributes:
        complete: every plan that could be worth more was looked at, or excluded.
        better: worth of a plan that is better; None = none was found.
        steps: used.
    """

    complete: bool
    better: float | None = None
    steps: int = 0


class _Nothing(Exception):
    """No plan can be better."""


def prove(
    problem: Problem, prices: Mapping[str, float], value: float, max_steps: int = MAX_STEPS
) -> Proof:
    """Whether no plan is worth more than `value`, by exhaustion. Prices are >= 0, of known rows.

    The answer depends on the arguments alone, so a claim that is made after it can be made again by anyone.
    """
    return prove_on(instance_of(problem), prices, value, max_steps)


def prove_on(
    instance: Instance, prices: Mapping[str, float], value: float, max_steps: int = MAX_STEPS
) -> Proof:
    """As `prove`, on an instance that was derived before."""
    steps = Steps(max_steps)
    try:
        better = _Search(instance, prices, value, steps).run()
    except _Nothing:
        return Proof(complete=True, steps=max_steps - steps.left)
    except OutOfSteps:
        return Proof(complete=False, steps=max_steps - steps.left)
    return Proof(complete=better is None, better=better, steps=max_steps - steps.left)


class _Search:
    """Grows plans over the ways to choose the copies of each model."""

    def __init__(
        self, instance: Instance, prices: Mapping[str, float], value: float, steps: Steps
    ) -> None:
        dual = priced(instance, prices)
        self._instance, self._steps = instance, steps
        self._app, self._pools = instance.problem.app, instance.pools
        self._rows = tuple(instance.rows.values())
        self._number = {row.name: k for k, row in enumerate(self._rows)}
        self._index = by_scope(self._rows)
        self._limits = np.array([row.limit for row in self._rows])
        self._room = self._limits + SLACK * (1 + np.abs(self._limits))
        self._prices = np.array([prices.get(row.name, 0.0) for row in self._rows])
        self._floor = value + RELATIVE * max(abs(dual.bound), abs(value))
        self._allowed = dual.bound - self._floor
        if self._allowed <= 0:
            raise _Nothing
        self._reduced = dual.reduced
        self._seats: dict[tuple[int, ...], bool] = {}

    def run(self) -> float | None:
        """Worth of a better plan, or None when there is none."""
        if sum(d.replicas_min for d in self._app.demands) > _MOST_COPIES:
            raise OutOfSteps
        asked = [self._asked(d) for d in self._app.demands if self._runs(d)]
        users = np.zeros(len(self._rows), dtype=np.intp)
        for one in asked:
            users += (one.usage != 0).any(axis=1)
        ways = [self._ways(one, users == 1) for one in asked]
        if not all(len(own.choices.lost) for own in ways):
            return None
        # Models with few ways come first: they settle rows before the others multiply.
        ways.sort(key=lambda own: len(own.choices.lost))
        for plan in self._plans(ways):
            worth = sum((option.value for option in plan), 0.0)
            if worth > self._floor and self._seated(plan):
                return worth
        return None

    def _runs(self, demand: Demand) -> bool:
        """Whether the model has options; where it must run, a plan needs one."""
        if self._instance.options[demand.id]:
            return True
        if demand.replicas_min:
            raise _Nothing
        return False

    # -- ways of one model --------------------------------------------------------------------------------------------

    def _asked(self, demand: Demand) -> Asked:
        own, reduced = self._useful(demand)
        return Asked(demand=demand, own=own, reduced=reduced, usage=self._usage(own))

    def _ways(self, asked: Asked, alone: Mask) -> Ways:
        """Every choice of the model's copies that no row forbids, with less lost than may be lost in all.

        Args:
            alone: rows that one model alone takes of, so that what it leaves free is lost.
        """
        demand, usage = asked.demand, asked.usage
        best = float(max(self._reduced[demand.id]))
        top = max(0.0, best)
        must = Choices(lost=best - asked.reduced, usage=usage)
        may = Choices(lost=top - asked.reduced, usage=usage)
        least, most = demand.replicas_min, demand.replicas_max
        copies = [must] * least + [or_none(may, top)] * min(most - least, _MOST_FORESEEN)
        prices = np.where(alone & (usage != 0).any(axis=1), self._prices, 0.0)
        foreseen = most <= least + _MOST_FORESEEN
        outlooks = self._outlooks(copies, prices) if foreseen else {}
        taken = _to_come([own.usage.max(axis=1, initial=0.0) for own in copies]) if foreseen else []
        grown = nothing_yet(len(self._rows))
        found: list[tuple[Partials, float]] = []
        for chosen in range(most + 1):
            if chosen >= least:
                found.append((grown, (most - chosen) * top))
            if chosen == most or not grown.count:
                break
            demands = Demands(
                allowed=self._allowed,
                room=np.where(self._limits >= 0, self._room, np.inf),
                full=self._limits - taken[chosen]
                if foreseen
                else np.full_like(self._room, -np.inf),
                prices=prices,
                outlooks={row: outlook.table(chosen + 1) for row, outlook in outlooks.items()},
            )
            choices = must if chosen < least else may
            grown = grow(grown, choices, demands, self._steps, ordered=True)
        if not found:
            raise _Nothing
        return ways_of(found, asked, self._allowed)

    def _useful(self, demand: Demand) -> tuple[list[Option], Vector]:
        """Options that lose less than may be lost and that no other one stands in for, best first."""
        best = max(self._reduced[demand.id])
        # A copy that must run is held against the best option, one that may run against nothing too.
        spared = best if demand.replicas_min else max(0.0, best)
        pairs = zip(self._reduced[demand.id], self._instance.options[demand.id], strict=True)
        near = [(reduced, o) for reduced, o in pairs if spared - reduced < self._allowed]
        near.sort(key=lambda pair: -pair[0])
        kept: list[tuple[float, Option]] = []
        for reduced, option in near:
            if not any(stands_in(other, option) for _, other in kept):
                kept.append((reduced, option))
        return [o for _, o in kept], np.array([reduced for reduced, _ in kept])

    def _usage(self, own: Sequence[Option]) -> Vector:
        """Shape (rows, options)."""
        usage = np.zeros((len(self._rows), len(own)))
        for column, option in enumerate(own):
            for row in over(option, self._index):
                usage[self._number[row.name], column] = row.amount(option)
        return usage

    # -- plans --------------------------------------------------------------------------------------------------------

    def _plans(self, ways: Sequence[Ways]) -> Iterator[list[Option]]:
        """Every plan within all rows that may be worth more, the best first."""
        least = _to_come([w.choices.usage.min(axis=1, initial=np.inf) for w in ways])
        most = _to_come([w.choices.usage.max(axis=1, initial=-np.inf) for w in ways])
        losses = _to_come([w.choices.lost.min(initial=np.inf) for w in ways])
        partials = nothing_yet(len(self._rows))
        outlooks = self._outlooks([own.choices for own in ways], self._prices)
        for level, own in enumerate(ways):
            tables = {row: outlook.table(level + 1) for row, outlook in outlooks.items()}
            demands = Demands(
                allowed=self._allowed - float(losses[level]),
                room=self._room - least[level],
                full=self._limits - most[level],
                prices=self._prices,
                outlooks={row: _less(table, losses[level]) for row, table in tables.items()},
            )
            partials = grow(partials, own.choices, demands, self._steps)
        for column in np.argsort(partials.lost, kind="stable"):
            chosen = partials.chosen[:, column]
            yield [o for own, way in zip(ways, chosen, strict=True) for o in own.options(int(way))]

    def _outlooks(self, choices: Sequence[Choices], prices: Vector) -> dict[int, Outlook]:
        """Of the rows that several of these share and that could be overdrawn or are priced."""
        if not choices:
            return {}
        most = np.array([own.usage.max(axis=1, initial=0.0) for own in choices])
        shared = (most > 0).sum(axis=0) > 1
        tight = (most.sum(axis=0) > self._room) | (prices > 0)
        rows = np.flatnonzero(shared & tight & (self._limits > 0)).tolist()
        return {
            row: Outlook(row, self._limits[row], self._room[row], prices[row], choices)
            for row in rows
        }

    def _seated(self, plan: Sequence[Option]) -> bool:
        """Whether all find a place at once; tried pool by pool first, as plans have many pools in common."""
        for pool in self._pools:
            own = tuple(o for o in plan if o.pool is pool and not o.chain)
            key = tuple(sorted(map(id, own)))
            if key not in self._seats:
                self._seats[key] = not own or seat(self._app, self._pools, own, self._steps)
            if not self._seats[key]:
                return False
        return seat(self._app, self._pools, plan, self._steps)


def _less(table: Table, lost: float) -> Table:
    return replace(table, losses=table.losses - lost)


def _to_come(own: Sequence[Any]) -> list[Any]:
    """For each step the sum over the steps after it."""
    sums = [own[0] * 0.0] if own else []
    for one in reversed(own[1:]):
        sums.append(sums[-1] + one)
    return sums[::-1]
