"""What the models that are still to come lose at least, seen from what is left of one capacity.

Per row a small exact table: for every amount that may be left, the least that the rest loses when it keeps to that amount, with
the price of what it leaves free. Real amounts are cut into parts and rounded so that the table never says too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_PARTS = 400
"""Parts that a row of real amounts is cut into."""

_MOST_WHOLE = 2000
"""Limit up to which a row of whole amounts is not cut."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choices:
    """What may be chosen for one model, by rising loss.

    Attributes:
        usage: of each row; shape (rows, choices).
    """

    lost: Vector
    usage: Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Least loss by what is left of a row: entry 0 = it is overdrawn, entry k = k - 1 units are left.

    Attributes:
        whole: amounts are whole units.
    """

    losses: Vector
    unit: float
    room: float
    whole: bool

    def least(self, load: Vector) -> Vector:
        """What the rest loses at least, at each load of the row."""
        left = (self.room - load) / self.unit
        units = np.floor(left) if self.whole else np.ceil(left)
        return self.losses[np.clip(units + 1, 0, len(self.losses) - 1).astype(np.intp)]


class Outlook:
    """Tables of one row, before each model and at the end."""

    def __init__(
        self, row: int, limit: float, room: float, price: float, to_come: Sequence[Choices]
    ) -> None:
        usages = [choices.usage[row] for choices in to_come]
        self._whole = limit <= _MOST_WHOLE and all(
            not np.mod(amounts, 1.0).any() for amounts in (*usages, np.array([limit]))
        )
        self._unit = 1.0 if self._whole else room / _PARTS
        self._room, self._price = room, price
        units = int(limit) if self._whole else _PARTS
        exact = np.full(units + 1, np.inf)
        exact[0] = 0.0
        self._after = [exact]
        for choices, amounts in zip(reversed(to_come), reversed(usages), strict=True):
            exact = self._with(exact, choices.lost, amounts)
            self._after.append(exact)
        self._after.reverse()

    def table(self, level: int) -> Table:
        """For the models from `level` on."""
        exact = self._after[level]
        worth = self._price * self._unit
        units = np.arange(len(exact))
        # Rounded amounts may be that many units more than they look.
        doubt = 0 if self._whole else len(self._after) - level
        with np.errstate(invalid="ignore"):
            wasted = np.minimum.accumulate(exact - worth * units) + worth * units
        losses = np.concatenate([np.full(doubt, np.inf), wasted])[: len(exact)]
        for shift in range(min(doubt, len(exact) - 1) + 1):
            losses[shift:] = np.minimum(losses[shift:], exact[: len(exact) - shift])
        return Table(
            losses=np.concatenate([[np.inf], losses]),
            unit=self._unit,
            room=self._room,
            whole=self._whole,
        )

    def _with(self, exact: Vector, lost: Vector, amounts: Vector) -> Vector:
        """Least loss by units taken, with one more model."""
        units = np.floor(amounts / self._unit).astype(np.intp)
        found = np.full(len(exact), np.inf)
        # Choices come by rising loss: the first of an amount loses least.
        for amount, first in zip(*np.unique(units, return_index=True), strict=True):
            if amount < len(exact):
                more = exact[: len(exact) - amount] + lost[first]
                found[amount:] = np.minimum(found[amount:], more)
        return found
