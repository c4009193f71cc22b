"""Checks a plan file against a spec file and an inventory file, without a cluster and without the solver.

Decides which files are read and what the report holds. What is true of a plan is `placement.proof`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from placement.catalog import classes_of
from placement.errors import SpecError
from placement.plan import Plan
from placement.problem import Problem, check
from placement.proof import Audit, audit
from placement.proof_document import disagreement, plan_of, read_document

from .calibrations import load, with_calibrations
from .fingerprints import other_than
from .inventory_file import load_inventory
from .offline import notes_of, with_local_facts
from .spec import STDIN, check_device_classes, load_app, read_spec, spec_name

MAX_PLAN_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found about a plan file; `audit` has the figures that were derived. `plan` None = it holds none.

    Attributes:
        notes: what was assumed while spec and inventory were read.
    """

    plan: Plan | None
    audit: Audit
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing was found against the plan."""
        return not self.audit.faults

    def document(self) -> dict[str, Any]:
        """What `verify -o json` prints. Figures are those derived here; None where a fault came before them."""
        found, plan = self.audit, self.plan
        return {
            "holds": self.holds,
            "faults": list(found.faults),
            "generation": plan.generation if plan else None,
            "policy": plan.policy if plan else None,
            "replicas": len(plan.slots) if plan else 0,
            "value": found.value,
            "bound": found.bound,
            "dual_bound": found.dual_bound,
            "gap": found.gap,
            "proof": plan.proof if plan and self.holds else None,
            "search_steps": found.steps,
        }


def verify_files(
    plan: str | Path,
    inventory: str | Path,
    spec: str | Path,
    *,
    calibrations: str | Path | None = None,
) -> Report:
    """Re-derives everything that the plan claims.

    Args:
        calibrations: a file of measurements, or a folder of such files, that count beside those of the inventory.

    Raises:
        SpecError: a file is missing or broken, or two of them are standard input.
    """
    if [str(plan), str(inventory), str(spec)].count(STDIN) > 1:
        says = "only one of PLAN, --inventory and SPEC can be -"
        raise SpecError(says, hint="give the others as files")
    claimed, contradiction, made_for = _read_plan(plan)
    app, there = load_app(spec), load_inventory(inventory)
    if calibrations is not None:
        there = with_calibrations(there, load(calibrations))
    check_device_classes(app, classes_of(there))
    problem = Problem(inventory=there, app=with_local_facts(app))
    check(problem)
    notes = notes_of(app, there)
    if contradiction or claimed is None:
        return Report(plan=claimed, audit=Audit(faults=(contradiction,)), notes=notes)
    found = audit(problem, claimed)
    changed = "" if found.faults else other_than(problem, made_for)
    if changed:
        found = replace(found, faults=(changed,))
    return Report(plan=claimed, audit=found, notes=notes)


def _read_plan(path: str | Path) -> tuple[Plan | None, str, object]:
    """The plan of a file, where the file contradicts itself or holds none, and what it says it was made for."""
    try:
        document = read_document(read_spec(path, max_bytes=MAX_PLAN_BYTES))
        if document.get("feasible") is False:
            return None, "it says that no plan exists, which carries no proof", None
        plan = plan_of(document)
    except SpecError as error:
        name = spec_name(path)
        said = error.message if error.message.startswith(name) else f"{name}: {error.message}"
        raise SpecError(said, hint=error.hint, file=name) from error
    return plan, disagreement(document, plan), document.get("made_for")
