"""From a fractional plan to a whole one: rounding, repair of rows that are over their limit, and improvement by single moves
and by exchanges. Numpy; one entry per possible move.

Knows candidates as numbers: values and what they take of rows. Whether a plan can be put on nodes is the packer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .relaxation import Relaxed, Vector

Indices = NDArray[np.intp]

Move = tuple[int, int]
"""A copy and the candidate that it changes to."""

Proposal = tuple[float, list[Move]]
"""What moves gain, negative, and the moves: sorts best first."""

SLACK = 1e-9
REPAIRS = 400
"""Rounds of repair at most; each moves as many copies as it takes to mend one row."""

REST = 8
"""Rounds for which a copy stays where it was pushed."""

PASSES = 40
"""Rounds of improvement at most."""

PARTNERS = 200
"""Moves on either side of an exchange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """The replicas to place, one entry each.

    Attributes:
        model: position of its model among the demands.
        home: the candidate that it runs in now; -1 = it is new or lost its devices.
        stay: what leaving home costs, in units of value.
    """

    model: Indices
    home: Indices
    stay: Vector

    def __len__(self) -> int:
        return len(self.model)


class Rounding:
    """One set of choices, improved step by step. `chosen` holds a candidate per copy, or `nothing`.

    Args:
        allowed: candidates that may be used.
    """

    def __init__(
        self,
        relaxed: Relaxed,
        prices: Vector,
        copies: Copies,
        allowed: NDArray[np.bool_],
    ) -> None:
        self.nothing = len(relaxed.values)
        self.copies = copies
        self._least = relaxed.least
        self._starts, self._counts = relaxed.starts, relaxed.counts
        self._usage = np.vstack([relaxed.usage, np.zeros(relaxed.usage.shape[1])])
        self._values = np.append(relaxed.values, 0.0)
        self._allowed = np.append(allowed, True)
        self._limits = relaxed.limits
        self._prices = prices
        self._usual = float(np.abs(relaxed.values).mean())
        self.chosen = np.full(len(copies), self.nothing, dtype=np.intp)
        self._load = np.zeros(relaxed.usage.shape[1])

    @property
    def holds(self) -> bool:
        """Whether every row is within its limit."""
        return bool((self._load <= self._limits + SLACK).all())

    @property
    def value(self) -> float:
        """Worth of the choices, with what staying is worth."""
        stays = self.copies.stay[self.chosen == self.copies.home].sum()
        return float(self._values[self.chosen].sum() + stays)

    def start(self, chosen: Indices) -> None:
        """From these choices."""
        self.chosen = chosen.copy()
        self._load = self._usage[self.chosen].sum(axis=0)

    def round(self, weights: Vector, optional: Vector | None = None) -> None:
        """Copies at home stay; the others are given out by the parts of the fractional plan, largest remainder.

        Args:
            optional: part of each model's optional copies that the plan places; None = none of them.
        """
        weights = self._gathered(weights)
        chosen = np.where(self.copies.home >= 0, self.copies.home, self.nothing)
        size = np.bincount(self.copies.model, minlength=len(self._starts))
        spare = (size - self._least) * (0.0 if optional is None else optional)
        wanted = self._least + np.floor(spare + 0.5)
        for m, (start, count) in enumerate(zip(self._starts, self._counts, strict=True)):
            mine = self.copies.model == m
            own = np.flatnonzero(mine & (chosen == self.nothing))
            missing = min(int(wanted[m]) - int((mine & (chosen != self.nothing)).sum()), len(own))
            if missing > 0:
                here = slice(int(start), int(start + count))
                part = np.where(self._allowed[here], weights[here], 0.0)
                if not part.any():
                    part = self._allowed[here].astype(np.float64)
                chosen[own[:missing]] = start + _apportion(part, missing)
        self.start(chosen)

    def _gathered(self, weights: Vector) -> Vector:
        """The weights of candidates of one model that take the same, all given to the one worth most."""
        count = len(weights)
        group = np.repeat(np.arange(len(self._starts)), self._counts)
        # Equal rows have equal sums with any fixed vector; unequal ones have equal sums by no likely accident.
        fixed = np.sin(np.arange(1, 1 + self._usage.shape[1]))
        mark = np.round(np.einsum("kr,r->k", self._usage[:count], fixed), 9)
        order = np.lexsort((-self._values[:count], ~self._allowed[:count], mark, group))
        first = np.ones(count, dtype=np.bool_)
        first[1:] = (np.diff(group[order]) != 0) | (np.diff(mark[order]) != 0)
        there = np.where(self._allowed[:count], weights, 0.0)[order]
        gathered = np.zeros(count)
        gathered[order[first]] = np.add.reduceat(there, np.flatnonzero(first))
        return gathered

    # -- moves --

    def _moves(self) -> tuple[Indices, Indices]:
        """Copies and the candidates that they could change to; of copies that are alike, one."""
        copies = self.copies
        placed = np.bincount(copies.model[self.chosen != self.nothing], minlength=len(self._starts))
        key = np.stack([copies.model, self.chosen, copies.home], axis=1)
        _, first = np.unique(key, axis=0, return_index=True)
        models = copies.model[first]
        counts = self._counts[models]
        who = np.repeat(first, counts)
        offset = np.arange(len(who)) - np.repeat(np.cumsum(counts) - counts, counts)
        target = self._starts[copies.model[who]] + offset
        spare = first[(placed[models] > self._least[models]) & (self.chosen[first] != self.nothing)]
        who = np.append(who, spare)
        target = np.append(target, np.full(len(spare), self.nothing))
        useful = self._allowed[target] & (target != self.chosen[who])
        return who[useful], target[useful]

    def _gain(self, who: Indices, target: Indices) -> Vector:
        copies, now = self.copies, self.chosen[who]
        stays = (target == copies.home[who]).astype(float) - (now == copies.home[who])
        return self._values[target] - self._values[now] + copies.stay[who] * stays

    def _delta(self, who: Indices, target: Indices) -> Vector:
        return self._usage[target] - self._usage[self.chosen[who]]

    def _apply(self, who: int, target: int) -> None:
        self._load += self._usage[target] - self._usage[self.chosen[who]]
        self.chosen[who] = target

    def _may(self, who: int, target: int) -> bool:
        """Whether a move of an earlier list is still one: the copy has not moved, the minimum stays."""
        if target != self.nothing:
            return True
        model = self.copies.model[who]
        placed = ((self.copies.model == model) & (self.chosen != self.nothing)).sum()
        return bool(placed > self._least[model])

    def repair(self) -> bool:
        """Moves copies until every row holds, at the least loss; True when they do.

        Tried twice from the same choices: rows that stay over their limit first double in weight, then grow steadily while
        the least bad move is taken where none betters the whole.
        """
        before = self.chosen.copy()
        if self._descend():
            return True
        self.start(before)
        return self._wander()

    def _descend(self) -> bool:
        weights = 2.0 * self._prices + 0.05 * self._usual
        for _ in range(REPAIRS // 4):
            over = self._load - self._limits
            if (over <= SLACK).all():
                return True
            row = int(np.argmax(over))
            who, target, score = self._reliefs(row, over, weights)
            if not len(who):
                return False
            if not self._mend(row, who, target, score, weights):
                weights[over > SLACK] *= 2.0
        return False

    def _wander(self) -> bool:
        """A copy that was pushed rests a while, so that the search leaves local minima."""
        step = 0.25 * self._usual
        weights = 2.0 * self._prices + step
        rests = np.zeros(len(self.copies), dtype=np.intp)
        for round_ in range(REPAIRS):
            over = self._load - self._limits
            if (over <= SLACK).all():
                return True
            row = int(np.argmax(over * weights))
            who, target, score = self._reliefs(row, over, weights)
            rested = rests[who] <= round_
            who, target, score = who[rested], target[rested], score[rested]
            weights[over > SLACK] += step
            if len(who) and not self._mend(row, who, target, score, weights):
                best = int(np.argmin(score))
                self._apply(int(who[best]), int(target[best]))
                rests[who[best]] = round_ + REST
        return False

    def _reliefs(self, row: int, over: Vector, weights: Vector) -> tuple[Indices, Indices, Vector]:
        """Moves that take load off a row, with what they cost in value and in weighted overload."""
        who, target = self._moves()
        delta = self._delta(who, target)
        relief = delta[:, row] < -SLACK
        who, target, delta = who[relief], target[relief], delta[relief]
        return who, target, self._penalty(over, delta, weights) - self._gain(who, target)

    def _penalty(self, over: Vector, delta: Vector, weights: Vector) -> Vector:
        more = np.maximum(over + delta, 0.0) - np.maximum(over, 0.0)
        return np.einsum("...r,r->...", more, weights)

    def _mend(
        self, row: int, who: Indices, target: Indices, score: Vector, weights: Vector
    ) -> bool:
        """Takes moves that better the whole, best first, until the row holds; False when there is none."""
        moved: set[int] = set()
        for k in np.argsort(score, kind="stable")[:PARTNERS].tolist():
            over = self._load - self._limits
            if score[k] >= 0 or over[row] <= SLACK:
                break
            copy, to = int(who[k]), int(target[k])
            if copy in moved or not self._may(copy, to):
                continue
            delta = self._usage[to] - self._usage[self.chosen[copy]]
            gain = float(self._gain(who[k : k + 1], target[k : k + 1])[0])
            if float(self._penalty(over, delta, weights)) - gain < 0:
                self._apply(copy, to)
                moved.add(copy)
        return bool(moved)

    def improve(self) -> None:
        """Single moves and exchanges of two, while they gain."""
        for _ in range(PASSES):
            if not self._take(self._singles()) and not self._take(self._exchanges()):
                return

    def proposals(self) -> list[list[Move]]:
        """Single moves and exchanges that gain within every row, best first."""
        return [moves for _, moves in sorted(self._singles() + self._exchanges())]

    def apply(self, moves: Sequence[Move]) -> None:
        """Makes these moves."""
        for copy, to in moves:
            self._apply(copy, to)

    def _take(self, proposals: list[Proposal]) -> bool:
        """Makes all that still hold, best first; False when there is none."""
        moved: set[int] = set()
        for _, moves in sorted(proposals):
            apart = moved.isdisjoint(copy for copy, _ in moves)
            if apart and all(self._may(*move) for move in moves) and self._fits(moves):
                self.apply(moves)
                moved.update(copy for copy, _ in moves)
        return bool(moved)

    def _fits(self, moves: Sequence[Move]) -> bool:
        load = self._load
        for copy, to in moves:
            load = load + self._usage[to] - self._usage[self.chosen[copy]]
        return bool((load <= self._limits + SLACK).all())

    def _singles(self) -> list[Proposal]:
        who, target = self._moves()
        gain = self._gain(who, target)
        up = gain > SLACK * self._usual
        who, target, gain = who[up], target[up], gain[up]
        fits = (self._load + self._delta(who, target) <= self._limits + SLACK).all(axis=1)
        entries = zip(gain[fits].tolist(), who[fits].tolist(), target[fits].tolist(), strict=True)
        return [(-g, [(copy, to)]) for g, copy, to in entries]

    def _exchanges(self) -> list[Proposal]:
        """Pairs of moves, one that gains and one that makes room for it, drawn from those that cost least at the prices."""
        who, target = self._moves()
        gain = self._gain(who, target)
        delta = self._delta(who, target)
        fair = gain - np.einsum("kr,r->k", delta, self._prices)
        order = np.argsort(-fair, kind="stable")
        up = order[gain[order] > 0][:PARTNERS]
        down = order[gain[order] < 0][:PARTNERS]
        net = gain[up][:, None] + gain[down][None, :]
        net[who[up][:, None] == who[down][None, :]] = -1.0
        pairs = np.argwhere(net > SLACK * self._usual)
        load = delta[up][pairs[:, 0]] + delta[down][pairs[:, 1]]
        pairs = pairs[(load <= self._limits + SLACK - self._load).all(axis=1)]
        return [
            (-float(net[a, b]), [(int(who[k]), int(target[k])) for k in (up[a], down[b])])
            for a, b in pairs.tolist()
        ]


def _apportion(parts: Vector, copies: int) -> Indices:
    """Positions for so many copies, in proportion to the parts; largest remainder, the first of equals."""
    share = parts / parts.sum() * copies
    whole = np.floor(share + 1e-9).astype(np.intp)
    rest = copies - int(whole.sum())
    if rest > 0:
        whole[np.argsort(-(share - whole), kind="stable")[:rest]] += 1
    return np.repeat(np.arange(len(parts)), whole)[:copies]
