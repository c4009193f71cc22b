"""Planning without a cluster: a spec file and an inventory file in, a plan out; two plans when the question is what if.

Decides how missing model facts are filled in on this machine. It must not know a controller.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actors.sources import resolve
from placement.catalog import classes_of
from placement.demand import App, Demand
from placement.diff import diff
from placement.errors import SpecError
from placement.inventory import Inventory
from placement.plan import Change, Infeasible, Plan
from placement.problem import Problem
from placement.solve import solve, warm
from placement.what_if import changed

from .inventory_file import load_inventory
from .spec import STDIN, check_device_classes, parse_app, read_spec, spec_name
from .what_if import KeyChange, changed_app, parse_what_if

_LOCAL = ("package://", "file://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An answer of the solver, and the CPU seconds that it took alone."""

    outcome: Plan | Infeasible
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What there is now, and what there would be.

    Attributes:
        changes: as they were understood.
        moves: from one plan to the other; empty where one of them is infeasible.
    """

    before: Planned
    after: Planned
    changes: tuple[str, ...]
    moves: tuple[Change, ...]


def plan_files(spec: str | Path, inventory: str | Path, *, seed: int = 0) -> Planned:
    """Plans a spec file on an inventory file.

    Raises:
        SpecError: a file is missing or wrong, or both are standard input.
    """
    text, there = _read(spec, inventory)
    return _planned(parse_app(text, spec_name(spec)), there, seed)


def compare_files(
    spec: str | Path, inventory: str | Path, what_if: Sequence[str], *, seed: int = 0
) -> Compared:
    """Plans a spec file on an inventory file, then once more with changes of either, from that plan on.

    Raises:
        SpecError: as `plan_files`; or a change is wrong.
    """
    changes = [parse_what_if(text) for text in what_if]
    text, there = _read(spec, inventory)
    hardware = [change for change in changes if not isinstance(change, KeyChange)]
    keys = [change for change in changes if isinstance(change, KeyChange)]
    app = parse_app(text, spec_name(spec))
    later = changed(there, hardware)
    later_app = changed_app(text, spec_name(spec), keys) if keys else app
    before = _planned(app, there, seed)
    current = before.outcome if isinstance(before.outcome, Plan) else None
    after = _planned(later_app, later, seed, current)
    moves: tuple[Change, ...] = ()
    if current is not None and isinstance(after.outcome, Plan):
        moves = diff(current, after.outcome, inventory=later, before_app=app, app=later_app)
    said = tuple(str(change) for change in changes)
    return Compared(before=before, after=after, changes=said, moves=moves)


def _read(spec: str | Path, inventory: str | Path) -> tuple[str, Inventory]:
    if str(spec) == str(inventory) == STDIN:
        raise SpecError("SPEC and --inventory cannot both be -", hint="give one of them as a file")
    return read_spec(spec), load_inventory(inventory)


def _planned(app: App, inventory: Inventory, seed: int, current: Plan | None = None) -> Planned:
    check_device_classes(app, classes_of(inventory))
    problem = Problem(inventory=inventory, app=with_local_facts(app), current=current, seed=seed)
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
