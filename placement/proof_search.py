"""Whether any plan is worth more than a value: the verifier's own complete search, over losses, with bounded steps.

At prices, every plan's value is the bound less its losses: what each replica gives up against the best option of its model, and
the price of what stays free. A better plan loses less than bound - value in all, so most options drop out at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .demand import Demand
from .ids import ModelId
from .problem import Problem
from .proof_options import Option
from .proof_rows import SLACK, Instance, by_scope, instance_of, over, priced
from .proof_seats import OutOfSteps, Steps, seat

MAX_STEPS = 1_000_000
"""Steps within which a claim must be repeatable, one to two seconds; who makes a claim may well use fewer."""

RELATIVE = 1e-6
"""A plan counts as better when it is worth more by this part of the bound."""

_MOST_COPIES = 400
"""More copies than this are not searched: the search goes one call deeper for each."""


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


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """A way to run one copy; `option` None = not at all."""

    option: Option | None
    loss: float
    usage: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Domain:
    """The choices of a copy, by falling value; not to run comes last.

    Attributes:
        least, most: row -> what it loses to the copy at least and at most, whatever the copy becomes; absent = nothing.
    """

    choices: tuple[_Choice, ...]
    least: Mapping[int, float]
    most: Mapping[int, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Copy:
    """One copy of a model; `follows` another one of the same model."""

    domain: _Domain
    follows: bool


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
    """Branch and bound: one variable per copy, copies of a model in order of their choices."""

    def __init__(
        self, instance: Instance, prices: Mapping[str, float], value: float, steps: Steps
    ) -> None:
        dual = priced(instance, prices)
        self._app, self._pools, self._steps = instance.problem.app, instance.pools, steps
        rows = tuple(instance.rows.values())
        self._number = {row.name: k for k, row in enumerate(rows)}
        self._index = by_scope(rows)
        self._limits = [row.limit + SLACK * (1 + abs(row.limit)) for row in rows]
        self._prices = [
            (self._number[name], price, instance.rows[name].limit)
            for name, price in prices.items()
            if price > 0
        ]
        self._floor = value + RELATIVE * max(abs(dual.bound), abs(value))
        self._budget = dual.bound - self._floor
        if self._budget <= 0:
            raise _Nothing
        self._copies = self._copies_of(instance, dual.reduced)
        self._load = [0.0] * len(rows)
        self._rest = [0.0] * len(rows)
        for copy in self._copies:
            for row, amount in copy.domain.least.items():
                self._rest[row] += amount
        self._most = self._most_left()
        self._chosen: list[_Choice] = []

    def run(self) -> float | None:
        """Worth of a better plan, or None when there is none."""
        if any(rest > limit for rest, limit in zip(self._rest, self._limits, strict=True)):
            return None
        found = self._extend(0, 0, 0.0)
        return found if isinstance(found, float) else None

    # -- domains --------------------------------------------------------------------------------------------------

    def _copies_of(
        self, instance: Instance, reduced: Mapping[ModelId, tuple[float, ...]]
    ) -> list[_Copy]:
        if sum(d.replicas_min for d in self._app.demands) > _MOST_COPIES:
            raise OutOfSteps
        made: list[list[_Copy]] = []
        for demand in self._app.demands:
            own = instance.options[demand.id]
            if own:
                made.append(self._copies_of_one(demand, own, reduced[demand.id]))
            elif demand.replicas_min:
                raise _Nothing
        if sum(map(len, made)) > _MOST_COPIES:
            raise OutOfSteps
        # Models with few choices come first: they settle rows before the others multiply.
        return [copy for copies in sorted(made, key=_breadth) for copy in copies]

    def _copies_of_one(
        self, demand: Demand, own: Sequence[Option], reduced: Sequence[float]
    ) -> list[_Copy]:
        best = max(reduced)
        top = max(0.0, best)
        room = self._room(demand, own)
        if room < demand.replicas_min:
            raise _Nothing
        most = min(demand.replicas_max, room)
        self._budget -= (demand.replicas_max - most) * top
        if self._budget <= 0:
            raise _Nothing
        if most > _MOST_COPIES:
            raise OutOfSteps
        must = self._domain(demand, own, reduced, best, optional=False)
        may = self._domain(demand, own, reduced, top, optional=True)
        return [_Copy(must if k < demand.replicas_min else may, k > 0) for k in range(most)]

    def _domain(
        self,
        demand: Demand,
        own: Sequence[Option],
        reduced: Sequence[float],
        top: float,
        *,
        optional: bool,
    ) -> _Domain:
        """Options that lose less than all that may be lost, against `top`.

        A copy that may run has the first of the options of one that must, in the same order.
        """
        ranked = sorted(zip(reduced, own, strict=True), key=lambda pair: -pair[0])
        found = [
            _Choice(option, top - value, self._usage(option))
            for value, option in ranked
            if top - value < self._budget
        ]
        if optional and top < self._budget:
            # A minimum is a row of negative amounts: a copy that does not run adds nothing to it.
            own_rows = self._index.get(("model", demand.id), ())
            idle = tuple((self._number[row.name], 0.0) for row in own_rows if row.limit < 0)
            found.append(_Choice(None, top, idle))
        if not found:
            raise _Nothing
        return _domain_of(found)

    def _usage(self, option: Option) -> tuple[tuple[int, float], ...]:
        pairs = ((self._number[r.name], r.amount(option)) for r in over(option, self._index))
        return tuple((row, amount) for row, amount in pairs if amount)

    def _room(self, demand: Demand, own: Sequence[Option]) -> int:
        """Copies that find room at most if nothing else is placed."""
        pools: dict[str, int] = {}
        for option in own:
            copies = option.pool.devices * option.pool.shares // option.layout.units
            pools[option.pool.name] = max(pools.get(option.pool.name, 0), copies)
        most = sum(pools.values())
        for row in (r for s in (("all",), ("model", demand.id)) for r in self._index.get(s, ())):
            least = min(map(row.amount, own))
            if least > 0:
                most = min(most, int((row.limit + SLACK * (1 + row.limit)) / least))
        return most

    def _most_left(self) -> list[list[float]]:
        """For each copy on, the most that the rest can still take of each priced row."""
        left = [[0.0] * len(self._prices)]
        for copy in reversed(self._copies):
            most = copy.domain.most
            pairs = zip(self._prices, left[-1], strict=True)
            left.append([after + most.get(row, 0.0) for (row, _, _), after in pairs])
        return left[::-1]

    # -- search ---------------------------------------------------------------------------------------------------

    def _extend(self, index: int, start: int, lost: float) -> float | int:
        """Tries the copies from `index` on, their choices from `start` on where the copy before is of the same model.

        Returns the worth of a better plan (a float), or the index of the copy to change next (an int).
        """
        if index == len(self._copies):
            return self._leaf()
        copy = self._copies[index]
        choices, least = copy.domain.choices, copy.domain.least
        for row, amount in least.items():
            self._rest[row] -= amount
        back: float | int = index - 1
        # Not to run is always open: it is the last choice.
        for rank in range(min(start, len(choices) - 1) if copy.follows else 0, len(choices)):
            choice = choices[rank]
            after = lost + choice.loss
            if after >= self._budget or (rank < start and choice.option and copy.follows):
                continue
            self._steps.take()
            if not self._take(copy, choice):
                continue
            found: float | int = index
            if after + self._wasted(index + 1) < self._budget:
                found = self._extend(index + 1, rank, after)
            self._give_back(choice)
            if isinstance(found, float) or found < index:
                back = found
                break
        for row, amount in least.items():
            self._rest[row] += amount
        return back

    def _take(self, copy: _Copy, choice: _Choice) -> bool:
        load, rest, limits = self._load, self._rest, self._limits
        if any(load[row] + amount + rest[row] > limits[row] for row, amount in choice.usage):
            return False
        if choice.option is not None and copy.follows and not self._matches(choice.option):
            return False
        for row, amount in choice.usage:
            load[row] += amount
        self._chosen.append(choice)
        return True

    def _give_back(self, choice: _Choice) -> None:
        for row, amount in choice.usage:
            self._load[row] -= amount
        self._chosen.pop()

    def _matches(self, option: Option) -> bool:
        """A model is served by real engines or by emulated ones, never by both."""
        before = self._chosen[-1].option
        return before is None or before.pool.emulated == option.pool.emulated

    def _wasted(self, index: int) -> float:
        """The price of what must stay free of the priced rows."""
        load, wasted = self._load, 0.0
        for (row, price, limit), left in zip(self._prices, self._most[index], strict=True):
            free = limit - load[row] - left
            if free > 0:
                wasted += price * free
        return wasted

    def _leaf(self) -> float | int:
        """The worth of the chosen plan when it is better and can stand; else which copy to change next."""
        end = len(self._copies) - 1
        chosen = [c.option for c in self._chosen if c.option is not None]
        worth = sum((option.value for option in chosen), 0.0)
        if worth <= self._floor or not self._fast_enough(chosen):
            return end
        blamed = self._unseatable(chosen)
        if blamed is None:
            return worth
        return max(k for k, c in enumerate(self._chosen) if c.option in blamed)

    def _fast_enough(self, chosen: Sequence[Option]) -> bool:
        """A model's minimum of tokens per second holds as soon as there is one replica."""
        for demand in (d for d in self._app.demands if d.min_tokens_per_s is not None):
            speeds = [o.predicted.tokens_per_s for o in chosen if o.demand.id == demand.id]
            if speeds and sum(speeds) < (demand.min_tokens_per_s or 0.0) * (1 - RELATIVE):
                return False
        return True

    def _unseatable(self, chosen: Sequence[Option]) -> Sequence[Option] | None:
        """None when all can stand; else replicas that cannot: those of one pool where they alone do not fit."""
        for pool in self._pools:
            own = [option for option in chosen if option.pool is pool]
            if own and not seat(self._app, self._pools, own, self._steps):
                return own
        return None if seat(self._app, self._pools, chosen, self._steps) else chosen


def _domain_of(choices: Sequence[_Choice]) -> _Domain:
    usages = [dict(choice.usage) for choice in choices]
    rows = sorted({row for usage in usages for row in usage})
    amounts = {row: [usage.get(row, 0.0) for usage in usages] for row in rows}
    return _Domain(
        choices=tuple(choices),
        least={row: least for row, some in amounts.items() if (least := min(some))},
        most={row: max(some) for row, some in amounts.items()},
    )


def _breadth(copies: Sequence[_Copy]) -> int:
    return max((len(copy.domain.choices) for copy in copies), default=0)
