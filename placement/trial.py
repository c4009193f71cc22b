"""Tries specs and inventories beside the one that was asked, within a budget of work that no clock decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .demand import App
from .inventory import Inventory
from .plan import Plan
from .planner import attempt
from .problem import Problem

_LEAST_WORK = 8
"""Of one try, beside its models and copies."""


class Trial:
    """Tries apps, a bounded number of times; deterministic as long as `should_stop` stays False."""

    def __init__(
        self, problem: Problem, should_stop: Callable[[], bool], max_work: int = 6000
    ) -> None:
        """`max_work`: copies and models that all tries together may place."""
        self.problem = problem
        self._should_stop = should_stop
        self._work_left = max_work

    @property
    def spent(self) -> bool:
        """No more tries: what was not found may still exist."""
        return self._work_left <= 0 or self._should_stop()

    def plan(self, app: App, inventory: Inventory | None = None) -> Plan | None:
        """A plan of that app; None when none was found within the limits."""
        return self._attempt(app, inventory or self.problem.inventory, first=True)

    def best(self, app: App) -> Plan | None:
        """As `plan`, and as good as it gets."""
        return self._attempt(app, self.problem.inventory, first=False)

    def _attempt(self, app: App, inventory: Inventory, *, first: bool) -> Plan | None:
        if self.spent:
            return None
        self._work_left -= _LEAST_WORK + len(app.demands) + sum(d.replicas_min for d in app.demands)
        problem = replace(self.problem, app=app, inventory=inventory, current=None)
        return attempt(problem, self._should_stop, first=first).plan
