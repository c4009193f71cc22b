"""What it costs to move a replica that runs: the tokens it does not serve while it loads again, and the doubt of the forecast.

A move pays off over a window in which the cluster is expected to stay as it is. A gain that is smaller than what the cost model
may be wrong by is no gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .plan import Slot
from .rows import Table

WINDOW_S = 1800.0
"""Time over which the load of a moved replica is written off."""

DOUBT = 0.25
"""Part of a replica's worth beyond its mere presence that a forecast of another class may be wrong by, per unit of relative
uncertainty: a saturating score q moves by q (1 - q) <= 1/4 of the relative error of its figure."""


def stay_worths(table: Table, running: Mapping[int, Sequence[Slot]]) -> dict[int, float]:
    """For each candidate that replicas run in, the value that a move of one of them must gain at least."""
    return {k: _stay_worth(table, k) for k in running}


def _stay_worth(table: Table, k: int) -> float:
    candidate = table.candidates[k]
    loading = min(1.0, candidate.predicted.load_s / WINDOW_S)
    return candidate.value * (loading + DOUBT * candidate.predicted.uncertainty)
