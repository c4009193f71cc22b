"""Exact search at the level of rows: all plans that are better than a known one, by growing partial plans model by model.

A partial plan (a label) is kept while what it has lost against the bound at the prices, with the worth of room that nothing
still to come can fill, leaves it better than the known plan, and while every row can still hold. Labels are rows of arrays, so
that millions of extensions are judged in a fraction of a second. Knows rows and prices; whether a plan packs is the packer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .relaxation import Indices, Mask, Relaxed, Vector

MAX_WAYS = 20_000
"""Ways to choose the copies of one model that are looked at."""

MAX_LABELS = 400_000
"""Partial plans kept after any model."""

_CHUNK = 400_000
_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How the copies of one model can be chosen.

    Attributes:
        loss: against the model's part of the bound, per way.
        usage: of each row, in parts of its limit; shape (ways, rows).
        chosen: candidates of each way.
    """

    loss: Vector
    usage: Vector
    chosen: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Better:
    """Plans that may be better than the known one, best first; `complete` when there are no others."""

    plans: tuple[tuple[int, ...], ...]
    values: tuple[float, ...]
    complete: bool


def better_plans(
    relaxed: Relaxed,
    prices: Vector,
    value: float,
    *,
    admits: Callable[[Sequence[int]], bool],
    extensions: int,
    should_stop: Callable[[], bool],
) -> Better:
    """Every plan within all rows that is worth more than `value`.

    Args:
        prices: in parts of the limits.
        admits: whether the copies of one model may be chosen so (candidates by position).
        extensions: judged in all at most.
    """
    bound = relaxed.bound_at(prices)
    allowed = bound - value - _SLACK * abs(bound)
    ways = []
    for model in range(len(relaxed.starts)):
        if should_stop():
            return Better(plans=(), values=(), complete=False)
        own = _ways(relaxed, prices, model, allowed, admits)
        if own is None:
            return Better(plans=(), values=(), complete=False)
        ways.append(own)
    ways.sort(key=lambda way: len(way.loss))
    return _Growth(relaxed, prices, allowed, ways, extensions).run(bound, should_stop)


def _ways(
    relaxed: Relaxed,
    prices: Vector,
    model: int,
    allowed: float,
    admits: Callable[[Sequence[int]], bool],
) -> Ways | None:
    """Ways of one model that lose less than allowed; None when there are too many."""
    start, count = int(relaxed.starts[model]), int(relaxed.counts[model])
    least, most = int(relaxed.least[model]), int(relaxed.most[model])
    reduced = relaxed.reduced(prices)[start : start + count]
    best = float(reduced.max())
    reference = least * best + (most - least) * max(best, 0.0)
    order = np.argsort(-reduced, kind="stable").tolist()
    worth = [float(reduced[k]) for k in order]
    found: list[tuple[float, tuple[int, ...]]] = []
    grown: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for copies in range(most + 1):
        if copies >= least:
            ways = ((reference - gained, chosen) for gained, chosen in grown)
            found += [way for way in ways if way[0] < allowed]
        if copies == most:
            break
        must = max(least - copies - 1, 0)
        top = must * best + (most - copies - 1 - must) * max(best, 0.0)
        grown = [
            (gained + worth[k], (*chosen, k))
            for gained, chosen in grown
            for k in range(chosen[-1] if chosen else 0, count)
            if reference - (gained + worth[k] + top) < allowed
        ]
        if len(grown) + len(found) > MAX_WAYS:
            return None
    named = [(loss, tuple(start + order[k] for k in chosen)) for loss, chosen in found]
    named = [(loss, chosen) for loss, chosen in named if admits(chosen)]
    usage = np.zeros((len(named), relaxed.usage.shape[1]))
    for row, (_, chosen) in enumerate(named):
        usage[row] = relaxed.usage[list(chosen)].sum(axis=0)
    fits = _possible(relaxed, usage)
    return Ways(
        loss=np.array([loss for loss, _ in named])[fits],
        usage=usage[fits],
        chosen=tuple(chosen for (_, chosen), ok in zip(named, fits, strict=True) if ok),
    )


def _possible(relaxed: Relaxed, usage: Vector) -> Mask:
    """Ways that no capacity forbids alone; minimums (limits below 0) are met by one model only."""
    over = (usage > relaxed.limits + _SLACK) & (relaxed.limits >= 0)
    return np.asarray(over.sum(axis=1) == 0, dtype=np.bool_)


class _Growth:
    """Labels after one model after another."""

    def __init__(
        self,
        relaxed: Relaxed,
        prices: Vector,
        allowed: float,
        ways: Sequence[Ways],
        extensions: int,
    ) -> None:
        self._limits = relaxed.limits
        self._prices = prices
        self._priced = np.flatnonzero(prices > 0)
        self._allowed = allowed
        self._ways = ways
        rows = len(relaxed.limits)
        self._least, self._most = np.zeros((len(ways) + 1, rows)), np.zeros((len(ways) + 1, rows))
        for level in range(len(ways) - 1, -1, -1):
            usage = ways[level].usage
            if len(usage):
                self._least[level] = self._least[level + 1] + usage.min(axis=0)
                self._most[level] = self._most[level + 1] + usage.max(axis=0)
        self._left = extensions

    def run(self, bound: float, should_stop: Callable[[], bool]) -> Better:
        """Grows all labels to whole plans."""
        loss, load = np.zeros(1), np.zeros((1, len(self._limits)))
        steps: list[tuple[Indices, Indices]] = []
        for level, ways in enumerate(self._ways):
            parts = list(self._extend(level, ways, loss, load))
            if self._left < 0 or should_stop() or sum(len(part[0]) for part in parts) > MAX_LABELS:
                return Better(plans=(), values=(), complete=False)
            loss = np.concatenate([part[0] for part in parts])
            load = np.concatenate([part[1] for part in parts])
            steps.append(
                (
                    np.concatenate([part[2] for part in parts]),
                    np.concatenate([part[3] for part in parts]),
                )
            )
        lost = loss + self._waste(load, len(self._ways))
        order = np.argsort(lost, kind="stable")
        return Better(
            plans=tuple(self._trace(int(k), steps) for k in order),
            values=tuple((bound - lost[order]).tolist()),
            complete=True,
        )

    def _extend(
        self, level: int, ways: Ways, loss: Vector, load: Vector
    ) -> Iterator[tuple[Vector, Vector, Indices, Indices]]:
        """Labels with the next model: losses, loads, and which label and way each comes from."""
        rows = len(self._limits)
        yield np.zeros(0), np.zeros((0, rows)), np.zeros(0, np.intp), np.zeros(0, np.intp)
        count = len(ways.loss)
        if not count:
            return
        room = self._limits + _SLACK - self._least[level + 1]
        tight = np.argsort(room - load.mean(axis=0) if len(load) else room)
        for first in range(0, len(loss), max(1, _CHUNK // count)):
            part = slice(first, first + max(1, _CHUNK // count))
            lost = loss[part, None] + ways.loss[None, :]
            label, way = np.nonzero(lost < self._allowed)
            self._left -= lost.size
            if self._left < 0:
                return
            label += first
            for row in tight:
                fits = load[label, row] + ways.usage[way, row] <= room[row]
                label, way = label[fits], way[fits]
            after = load[label] + ways.usage[way]
            total = loss[label] + ways.loss[way]
            keep = total + self._waste(after, level + 1) < self._allowed
            yield total[keep], after[keep], label[keep], way[keep]

    def _waste(self, load: Vector, level: int) -> Vector:
        """Worth of room that nothing still to come can fill."""
        free = self._limits - load - self._most[level]
        free = np.maximum(free[:, self._priced], 0.0)
        return np.einsum("kr,r->k", free, self._prices[self._priced])

    def _trace(self, label: int, steps: Sequence[tuple[Indices, Indices]]) -> tuple[int, ...]:
        """The candidates behind a label."""
        found: list[int] = []
        for ways, (parents, chosen) in zip(reversed(self._ways), reversed(steps), strict=True):
            found.extend(ways.chosen[int(chosen[label])])
            label = int(parents[label])
        return tuple(found)
