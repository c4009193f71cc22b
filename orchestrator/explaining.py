"""Answers `explain` about a whole outcome, one model or one slot, for the controller and for files alike."""

from __future__ import annotations

from placement.errors import SpecError
from placement.explain import explain
from placement.plan import Infeasible, Plan

from .yaml_positions import did_you_mean


def sentences(outcome: Plan | Infeasible, about: str = "") -> list[str]:
    """Why an outcome is as it is; `about` is a slot, a model, or empty for everything.

    Raises:
        SpecError: nothing in the outcome has that name.
    """
    names = _names(outcome)
    if about and about not in names:
        hint = did_you_mean(about, names)
        raise SpecError(f"no slot or model of the plan is called {about}", hint=hint)
    return list(explain(outcome, about or None).sentences)


def _names(outcome: Plan | Infeasible) -> set[str]:
    names: set[str] = {rejection.model for rejection in outcome.rejections}
    if isinstance(outcome, Plan):
        names |= {slot.model for slot in outcome.slots} | {slot.id for slot in outcome.slots}
        return names | set(outcome.unplaced)
    return names | set(outcome.conflict)
