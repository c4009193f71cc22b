"""Decides which shard of which model runs where. Pure: no Ray, no clock, no randomness, nothing read but its own catalog.

`solve(Problem(...))` gives a verified `Plan` or `Infeasible`; `verify`, `diff` and `explain` work on plans alone. Importing the
package is light: the search is loaded at the first solve, JSON (`placement.codec`) by who needs it.
"""

from __future__ import annotations

from .diff import diff
from .explain import Explanation, explain
from .plan import Change, Infeasible, Plan
from .problem import Problem
from .solve import solve
from .verify import verify

__all__ = [
    "Change",
    "Explanation",
    "Infeasible",
    "Plan",
    "Problem",
    "diff",
    "explain",
    "solve",
    "verify",
]
