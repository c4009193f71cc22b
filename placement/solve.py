"""The door of the solver. Light to import: the search, with numpy and the CSP library, is loaded at the first call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .plan import Infeasible, Plan
from .problem import Problem, check

WORTH_MOVING = 0.05
"""Relative gain below which a plan that still holds is left as it is: every move restarts a healthy replica."""


def never() -> bool:
    """The default of `should_stop`."""
    return False


def warm() -> None:
    """Loads the search and the catalog, so that a `solve` that is timed after it is timed alone."""
    from . import infeasible  # noqa: F401 - imports the whole search
    from .catalog import catalog, engines

    catalog()
    engines()


def solve(problem: Problem, should_stop: Callable[[], bool] = never) -> Plan | Infeasible:
    """Places every model of the app, verified, or says what cannot hold together.

    Deterministic for a problem and its seed as long as `should_stop` stays False; when it turns True, the best plan so
    far comes back with its gap.

    Raises:
        SpecError: the problem holds duplicates or figures that are no sensible numbers.
        PlacementError: the verifier refused the result (a bug), or another `constraint` package is installed.
    """
    from .infeasible import explain_infeasible
    from .planner import attempt

    check(problem)
    result = attempt(problem, should_stop)
    if result.plan is not None:
        return _steady(problem, result.plan)
    return explain_infeasible(problem, result, should_stop)


def _steady(problem: Problem, fresh: Plan) -> Plan:
    """What runs now, when it still holds and a fresh plan gains too little to be worth the restarts."""
    from .planner import PROVEN
    from .verify import verify

    current = problem.current
    if current is None or len(current.slots) < len(fresh.slots):
        return fresh
    if fresh.value - current.value > WORTH_MOVING * abs(fresh.value):
        return fresh
    bound = max(fresh.bound, current.value)
    kept = replace(
        fresh,
        slots=current.slots,
        unplaced=current.unplaced,
        value=current.value,
        bound=bound,
        proven=bound - current.value <= PROVEN * abs(bound),
    )
    return fresh if verify(problem, kept) else kept
