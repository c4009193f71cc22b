"""The door of the solver. Light to import: the search, with numpy and the CSP library, is loaded at the first call."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .plan import Infeasible, Plan
from .problem import Problem, check


def never() -> bool:
    """The default of `should_stop`."""
    return False


def warm() -> None:
    """Loads the search and the catalog, so that a `solve` that is timed after it is timed alone."""
    from . import infeasible  # noqa: F401 - imports the whole search
    from .catalog import catalog, engines

    catalog()
    engines()


def solve(
    problem: Problem, should_stop: Callable[[], bool] = never, *, lp: bool = False
) -> Plan | Infeasible:
    """Places every model of the app, verified, or says what cannot hold together.

    Deterministic for a problem and its seed as long as `should_stop` stays False; when it turns True, the best plan so
    far comes back with its gap.

    Args:
        lp: prices from a linear program by HiGHS (extra `lp`); without it they are within some parts in 10^6 of those.

    Raises:
        SpecError: the problem holds duplicates or figures that are no sensible numbers.
        PlacementError: the verifier refused the result (a bug), or another `constraint` package is installed.
    """
    from .infeasible import explain_infeasible
    from .planner import attempt

    check(problem)
    with _uncollected():
        result = attempt(problem, should_stop, lp=lp)
        if result.plan is not None:
            return result.plan
        return explain_infeasible(problem, result, should_stop)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cyclic collector: a solve makes many objects and no cycles, and going through all of them in vain takes a
    quarter of its time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
