"""Planning without a cluster: a spec file and an inventory file in, a plan out; two plans when the question is what if.

Decides how missing model facts are filled in on this machine, and what a deadline is: CPU seconds of this process. It must
not know a controller.
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

from .calibrations import load, with_calibrations
from .inventory_file import load_inventory
from .spec import (
    STDIN,
    check_device_classes,
    parse_app,
    pin_notes,
    read_spec,
    spec_name,
)
from .what_if import KeyChange, changed_app, parse_what_if

_LOCAL = ("package://", "file://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An answer of the solver.

    Attributes:
        cpu_s: what solving took alone.
        notes: what was assumed while the files were read, and what in them looks like a typing error.
    """

    problem: Problem
    outcome: Plan | Infeasible
    cpu_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How to solve.

    Attributes:
        deadline_s: CPU seconds after which the best plan so far is taken; None = as long as it takes.
        calibrations: a file of measurements, or a folder of such files, that count beside those of the inventory.
    """

    seed: int = 0
    deadline_s: float | None = None
    calibrations: str | None = None


_USUAL = Asked()


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


def plan_files(spec: str | Path, inventory: str | Path, asked: Asked = _USUAL) -> Planned:
    """Plans a spec file on an inventory file.

    Raises:
        SpecError: a file is missing or wrong, or both are standard input.
    """
    text, there = _read(spec, inventory, asked)
    return _planned(parse_app(text, spec_name(spec)), there, asked)


def compare_files(
    spec: str | Path, inventory: str | Path, what_if: Sequence[str], asked: Asked = _USUAL
) -> Compared:
    """Plans a spec file on an inventory file, then once more with changes of either, from that plan on.

    Raises:
        SpecError: as `plan_files`; or a change is wrong.
    """
    changes = [parse_what_if(text) for text in what_if]
    text, there = _read(spec, inventory, asked)
    hardware = [change for change in changes if not isinstance(change, KeyChange)]
    keys = [change for change in changes if isinstance(change, KeyChange)]
    app = parse_app(text, spec_name(spec))
    later = changed(there, hardware)
    later_app = changed_app(text, spec_name(spec), keys) if keys else app
    before = _planned(app, there, asked)
    current = before.outcome if isinstance(before.outcome, Plan) else None
    after = _planned(later_app, later, asked, current)
    moves: tuple[Change, ...] = ()
    if current is not None and isinstance(after.outcome, Plan):
        moves = diff(current, after.outcome, inventory=later, before_app=app, app=later_app)
    said = tuple(str(change) for change in changes)
    return Compared(before=before, after=after, changes=said, moves=moves)


def notes_of(app: App, inventory: Inventory) -> tuple[str, ...]:
    """What a person should know of a spec and an inventory before believing a plan of them."""
    return (*inventory.notes, *pin_notes(app, [node.id for node in inventory.nodes]))


def _read(spec: str | Path, inventory: str | Path, asked: Asked) -> tuple[str, Inventory]:
    if str(spec) == str(inventory) == STDIN:
        raise SpecError("SPEC and --inventory cannot both be -", hint="give one of them as a file")
    text, there = read_spec(spec), load_inventory(inventory)
    if asked.calibrations is None:
        return text, there
    return text, with_calibrations(there, load(asked.calibrations))


def _planned(app: App, inventory: Inventory, asked: Asked, current: Plan | None = None) -> Planned:
    check_device_classes(app, classes_of(inventory))
    problem = Problem(
        inventory=inventory, app=with_local_facts(app), current=current, seed=asked.seed
    )
    warm()
    started = time.process_time()

    def late() -> bool:
        return time.process_time() - started >= (asked.deadline_s or 0.0)

    outcome = solve(problem, late) if asked.deadline_s is not None else solve(problem)
    cpu_s = time.process_time() - started
    return Planned(problem=problem, outcome=outcome, cpu_s=cpu_s, notes=notes_of(app, inventory))


def with_local_facts(app: App) -> App:
    """The app with the facts of those models whose weights happen to be on this machine."""
    return replace(app, demands=tuple(map(_with_facts, app.demands)))


def _with_facts(demand: Demand) -> Demand:
    model = demand.model
    if model.facts is not None or not model.source.startswith(_LOCAL):
        return demand
    return replace(demand, model=replace(model, facts=resolve(model.source).facts))
