"""Planning without a cluster: a spec file and an inventory file in, a plan and its explanation out.

Decides how missing model facts are filled in on this machine. It must not know a controller.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from actors.sources import resolve
from placement.catalog import classes_of
from placement.demand import App, Demand
from placement.plan import Infeasible, Plan
from placement.problem import Problem
from placement.solve import solve, warm

from .inventory_file import load_inventory
from .spec import STDIN, check_device_classes, load_app

_LOCAL = ("package://", "file://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An answer of the solver, and the CPU seconds that it took alone."""

    outcome: Plan | Infeasible
    cpu_s: float


def plan_files(spec: str | Path, inventory: str | Path, *, seed: int = 0) -> Planned:
    """Plans a spec file on an inventory file.

    Raises:
        SpecError: a file is missing or wrong, or both are standard input.
    """
    if str(spec) == str(inventory) == STDIN:
        from placement.errors import SpecError

        raise SpecError("SPEC and --inventory cannot both be -", hint="give one of them as a file")
    app = load_app(spec)
    what_there_is = load_inventory(inventory)
    check_device_classes(app, classes_of(what_there_is))
    problem = Problem(inventory=what_there_is, app=with_local_facts(app), current=None, seed=seed)
    warm()
    started = time.process_time()
    outcome = solve(problem)
    return Planned(outcome=outcome, cpu_s=time.process_time() - started)


def with_local_facts(app: App) -> App:
    """The app with the facts of those models whose weights happen to be on this machine."""
    return replace(app, demands=tuple(map(_with_facts, app.demands)))


def _with_facts(demand: Demand) -> Demand:
    model = demand.model
    if model.facts is not None or not model.source.startswith(_LOCAL):
        return demand
    return replace(demand, model=replace(model, facts=resolve(model.source).facts))
