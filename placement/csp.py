"""The joint search: python-constraint's Problem with our own Solver and Constraints.

One variable per replica, one value per candidate (or none, for a copy above the minimum). The solver is a branch and bound
on reduced costs: a value's loss is what it gives up against the best one at the dual's prices, losses add up, and a branch
ends when their sum exceeds bound - incumbent. Constraints are incremental: values are added and taken back. Each of them
keeps the library's `__call__`, so that a stock solver can serve as a check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from .ids import ModelId
from .pyconstraint import Constraint, Solver

_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """A value of a replica's variable.

    Attributes:
        candidate: index; None = this copy is not placed.
        loss: against the best value of this variable.
        rank: position in the order of the model's candidates; copies are chosen in this order.
        usage: (row, amount) pairs.
    """

    model: ModelId
    candidate: int | None
    value: float
    loss: float
    rank: float
    usage: tuple[tuple[int, float], ...] = ()
    emulated: bool = False
    tokens_per_s: float = 0.0


class Incremental(Constraint):
    """A constraint that follows the search one value at a time."""

    def admit(self, choice: Choice) -> bool:
        """Takes the value, or refuses it and changes nothing."""
        raise NotImplementedError

    def withdraw(self, choice: Choice) -> None:
        """Takes back the last value admitted."""
        raise NotImplementedError

    def preProcess(  # noqa: N802 - the library's name
        self, variables: Any, domains: Any, constraints: Any, vconstraints: Any
    ) -> None:
        """Leaves the domains alone: the library would remove values for good."""

    def __call__(
        self,
        variables: Sequence[str],
        domains: dict[str, Any],
        assignments: dict[str, Choice],
        forwardcheck: bool = False,
    ) -> bool:
        """Whether the values assigned so far, in the order of the variables, are all admitted."""
        taken: list[Choice] = []
        for variable in variables:
            if variable in assignments:
                if not self.admit(assignments[variable]):
                    break
                taken.append(assignments[variable])
        complete = len(taken) == sum(variable in assignments for variable in variables)
        for choice in reversed(taken):
            self.withdraw(choice)
        return complete


class Capacity(Incremental):
    """No row over its limit, with what the variables still to come take at least.

    Args:
        prices: of the rows.
        domains: of all variables, in the order in which they are assigned; None = what is to come is not looked at.
    """

    def __init__(
        self,
        limits: Sequence[float],
        prices: Sequence[float] = (),
        domains: Sequence[Sequence[Choice]] = (),
    ) -> None:
        self._limits = [limit + _SLACK * (1 + abs(limit)) for limit in limits]
        self._load = [0.0] * len(limits)
        self._priced = [(row, price) for row, price in enumerate(prices) if price > 0]
        self._level = 0
        self._least, self._most = _to_come(domains, len(limits))

    @property
    def waste(self) -> float:
        """Worth of what can no longer be filled, at the prices."""
        most = self._most[min(self._level, len(self._most) - 1)]
        load, limits = self._load, self._limits
        return sum(
            price * free
            for row, price in self._priced
            if (free := limits[row] - load[row] - most[row]) > 0
        )

    def admit(self, choice: Choice) -> bool:
        """Refuses a value that would break a row, now or whatever comes."""
        load, limits = self._load, self._limits
        least = self._least[min(self._level + 1, len(self._least) - 1)]
        if any(load[row] + amount + least[row] > limits[row] for row, amount in choice.usage):
            return False
        for row, amount in choice.usage:
            load[row] += amount
        self._level += 1
        return True

    def withdraw(self, choice: Choice) -> None:
        """Gives back what it took."""
        self._level -= 1
        for row, amount in choice.usage:
            self._load[row] -= amount


def _to_come(
    domains: Sequence[Sequence[Choice]], rows: int
) -> tuple[list[list[float]], list[list[float]]]:
    """For each number of assigned variables, what the others take of each row at least and at most."""
    least, most = [[0.0] * rows], [[0.0] * rows]
    for domain in reversed(domains):
        amounts = [dict(choice.usage) for choice in domain]
        touched = {row for usage in amounts for row in usage}
        low, high = list(least[-1]), list(most[-1])
        for row in touched:
            taken = [usage.get(row, 0.0) for usage in amounts]
            low[row] += min(taken)
            high[row] += max(taken)
        least.append(low)
        most.append(high)
    return least[::-1], most[::-1]


class Ordered(Incremental):
    """Copies of one model are interchangeable: only one of their orders is searched, unplaced ones last."""

    def __init__(self) -> None:
        self._ranks = [-1.0]

    def admit(self, choice: Choice) -> bool:
        """Refuses a rank below the previous copy's."""
        if choice.rank < self._ranks[-1]:
            return False
        self._ranks.append(choice.rank)
        return True

    def withdraw(self, choice: Choice) -> None:
        """Back to the copy before."""
        self._ranks.pop()


class Uniform(Incremental):
    """A model is served by real engines or by emulated ones, never by both.

    Args:
        there: whether each copy that stays is emulated.
    """

    def __init__(self, there: Sequence[bool] = ()) -> None:
        self._kinds = list(there)

    def admit(self, choice: Choice) -> bool:
        """Refuses the other kind than the first copy's."""
        if choice.candidate is None:
            return True
        if self._kinds and self._kinds[-1] != choice.emulated:
            return False
        self._kinds.append(choice.emulated)
        return True

    def withdraw(self, choice: Choice) -> None:
        """Forgets the last copy's kind."""
        if choice.candidate is not None:
            self._kinds.pop()


class Coverage(Incremental):
    """All copies together reach a throughput; a model without any copy owes nothing.

    Args:
        missing_tokens_per_s: beyond what copies that stay reach.
        copies: still to be chosen.
        best: tokens/s of the best candidate.
        waivable: no copy stays, so choosing none is allowed.
    """

    def __init__(
        self, missing_tokens_per_s: float, copies: int, best: float, *, waivable: bool
    ) -> None:
        self._missing = missing_tokens_per_s * (1 - _SLACK)
        self._copies = copies
        self._best = best
        self._untouched = copies if waivable else -1
        self._waived = 0

    def admit(self, choice: Choice) -> bool:
        """Refuses a value after which the best ones could not reach it any more."""
        waives = choice.candidate is None and (self._waived or self._copies == self._untouched)
        rest = (self._copies - 1) * self._best
        if not waives and choice.tokens_per_s + rest < self._missing:
            return False
        self._waived += bool(waives)
        self._missing -= choice.tokens_per_s
        self._copies -= 1
        return True

    def withdraw(self, choice: Choice) -> None:
        """Opens the copy again."""
        self._waived = max(0, self._waived - 1)
        self._missing += choice.tokens_per_s
        self._copies += 1


class PricedSolver(Solver):
    """Branch and bound over reduced costs.

    Args:
        bound: at the root; a leaf is worth bound - its losses at most.
        packs: whether candidates can be put on nodes (says also whether it is sure).
        should_stop: polled often.
        max_steps: values tried.
        first: stop at the first leaf that packs.
        incumbent: worth of what is known already; only better leaves count.
        waste: worth of room that can no longer be filled by what is to come.

    After `getSolution`: `best` holds the choices (None = none found), `value` their worth, and `complete` whether every
    branch was searched or ruled out, so that nothing better exists.
    """

    def __init__(
        self,
        *,
        bound: float,
        packs: Callable[[list[int]], tuple[bool, bool]],
        should_stop: Callable[[], bool],
        max_steps: int,
        first: bool = False,
        incumbent: float = -inf,
        waste: Callable[[], float] | None = None,
    ) -> None:
        self._bound = bound
        self._waste = waste or (lambda: 0.0)
        self._packs = packs
        self._should_stop = should_stop
        self._steps_left = max_steps
        self._first = first
        self._careful = False
        self._path: list[Choice] = []
        self._plan: list[tuple[list[Choice], list[Incremental]]] = []
        self.best: list[Choice] | None = None
        self.value = incumbent
        self.complete = True

    def getSolution(  # noqa: N802 - the library's name  # pyrefly: ignore[bad-override]
        self, domains: dict[str, Any], constraints: list[Any], vconstraints: dict[str, Any]
    ) -> dict[str, Choice] | None:
        """The best assignment found, or None. Variables are taken in the order in which they were added."""
        self._plan = [
            (list(domain), [rule for rule, _ in vconstraints[name]])
            for name, domain in domains.items()
        ]
        self._descend()
        if self.best is None:
            return None
        return dict(zip(domains, self.best, strict=True))

    @property
    def _allowed(self) -> float:
        """Loss below which a leaf would still be better than the incumbent."""
        if self.value == -inf:
            return inf
        return self._bound - self.value - 1e-12 * abs(self._bound)

    def _descend(self) -> None:
        """Searches depth-first, on a stack of its own: Python's ends at some hundred copies."""
        if not self._plan:
            self._leaf()
            return
        levels, losses = [iter(self._plan[0][0])], [0.0]
        while levels:
            rules = self._plan[len(levels) - 1][1]
            choice = next((c for c in levels[-1] if losses[-1] + c.loss < self._allowed), None)
            if choice is None:
                levels.pop()
                losses.pop()
                if levels:
                    self._leave(self._path[-1], self._plan[len(levels) - 1][1])
            elif self._exhausted():
                return
            elif self._enter(choice, rules):
                if losses[-1] + choice.loss + self._waste() >= self._allowed:
                    self._leave(choice, rules)
                elif len(levels) < len(self._plan):
                    losses.append(losses[-1] + choice.loss)
                    levels.append(iter(self._plan[len(levels)][0]))
                elif self._leaf():
                    return
                else:
                    self._leave(choice, rules)

    def _exhausted(self) -> bool:
        self._steps_left -= 1
        if self._steps_left < 0 or self._should_stop():
            self.complete = False
            return True
        return False

    def _enter(self, choice: Choice, rules: list[Incremental]) -> bool:
        for count, rule in enumerate(rules):
            if not rule.admit(choice):
                for earlier in reversed(rules[:count]):
                    earlier.withdraw(choice)
                return False
        self._path.append(choice)
        if self._careful and choice.candidate is not None and not self._fits():
            self._leave(choice, rules)
            return False
        return True

    def _leave(self, choice: Choice, rules: list[Incremental]) -> None:
        self._path.pop()
        for rule in reversed(rules):
            rule.withdraw(choice)

    def _fits(self) -> bool:
        fits, sure = self._packs([c.candidate for c in self._path if c.candidate is not None])
        if not fits and not sure:
            self.complete = False
        return fits

    def _leaf(self) -> bool:
        """Keeps a leaf that is better; losses only bound its worth, rows that stay empty cost more."""
        value = sum(choice.value for choice in self._path)
        if value <= self.value and self._path:
            return False
        if not self._fits():
            self._careful = True
            return False
        self.best, self.value = list(self._path), value
        return self._first
