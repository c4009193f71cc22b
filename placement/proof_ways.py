"""The ways to choose the copies of one model: from grown partial ones to those that hold within the model.

Knows options and what the copies of one model owe each other; not the other models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .demand import Demand
from .proof_growth import Indices, Mask, Partials
from .proof_options import Option
from .proof_outlook import Choices, Vector

_SLACK = 1e-6
"""Of a minimum of tokens per second, relative."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A demand with its options, best first.

    Attributes:
        reduced: value of each option less the price of what it takes.
        usage: shape (rows, options).
    """

    demand: Demand
    own: Sequence[Option]
    reduced: Vector
    usage: Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ways:
    """The ways to choose the copies of one model.

    Attributes:
        own: its options.
        members: of each way, numbers of options, filled up with -1; shape (copies, ways).
    """

    choices: Choices
    own: Sequence[Option]
    members: Indices

    def options(self, way: int) -> list[Option]:
        """The options of the copies."""
        return [self.own[k] for k in self.members[:, way] if k >= 0]


def ways_of(grown: Sequence[tuple[Partials, float]], asked: Asked, allowed: float) -> Ways:
    """Ways from partial ones with what is lost by stopping there; those that hold within the model."""
    most = max(len(p.chosen) for p, _ in grown)
    ended = [(p, p.lost + rest, np.flatnonzero(p.lost + rest < allowed)) for p, rest in grown]
    members = np.hstack([_filled_up(p.chosen[:, few], most) for p, _, few in ended])
    lost = np.concatenate([losses[few] for _, losses, few in ended])
    usage = np.hstack([p.load[:, few] for p, _, few in ended])
    order = np.flatnonzero(_admitted(members, asked))
    order = order[np.argsort(lost[order], kind="stable")]
    choices = Choices(lost=lost[order], usage=usage[:, order])
    return Ways(choices=choices, own=asked.own, members=members[:, order])


def _admitted(members: Indices, asked: Asked) -> Mask:
    """Ways with one kind of engine, and with the model's minimum of tokens per second where there is a copy at all."""
    # The last entries are read where a way has fewer copies.
    there = members >= 0
    emulated = np.array([*(o.pool.emulated for o in asked.own), False])[members]
    tokens = np.array([*(o.predicted.tokens_per_s for o in asked.own), 0.0])[members].sum(axis=0)
    mixed = (emulated & there).any(axis=0) & (~emulated & there).any(axis=0)
    wanted = (asked.demand.min_tokens_per_s or 0.0) * (1 - _SLACK)
    return ~mixed & ((tokens >= wanted) | ~there.any(axis=0))


def or_none(choices: Choices, lost: float) -> Choices:
    """The choices, or none of them."""
    at = int(np.searchsorted(choices.lost, lost))
    return Choices(
        lost=np.insert(choices.lost, at, lost), usage=np.insert(choices.usage, at, 0.0, axis=1)
    )


def _filled_up(chosen: Indices, most: int) -> Indices:
    return np.pad(chosen, ((0, most - len(chosen)), (0, 0)), constant_values=-1)


def stands_in(one: Option, other: Option) -> bool:
    """Whether wherever the other stands, this one can: at most as much of everything, and worth as much."""
    a, b = one.layout, other.layout
    return (
        one.pool is other.pool
        and not (one.chain or other.chain)
        and one.value >= other.value
        and (a.tp <= b.tp and a.pp <= b.pp and a.shares <= b.shares)
        and one.stages[0].watts <= other.stages[0].watts
        and one.predicted.power_w <= other.predicted.power_w
        and one.predicted.price_per_hour <= other.predicted.price_per_hour
        and one.predicted.tokens_per_s >= other.predicted.tokens_per_s
    )
