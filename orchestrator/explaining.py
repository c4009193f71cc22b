"""Answers `explain` about a whole outcome, one model or one slot, for the controller and for files alike."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from placement.errors import SpecError
from placement.explain import explain
from placement.ids import model_of
from placement.plan import Infeasible, Plan
from placement.problem import Problem

from .yaml_positions import did_you_mean


def sentences(
    outcome: Plan | Infeasible, about: str = "", problem: Problem | None = None
) -> list[str]:
    """Why an outcome is as it is; `about` is a slot, a model, or empty for everything.

    Args:
        problem: that was solved; with it, models that run in stages are shown beside their other depths.

    Raises:
        SpecError: nothing in the outcome has that name.
    """
    names = _names(outcome)
    if about and about not in names:
        hint = did_you_mean(about, names)
        raise SpecError(f"no slot or model of the plan is called {about}", hint=hint)
    if problem is None:
        return list(explain(outcome, about or None).sentences)
    from placement.fronts import fronts  # with numpy: not for those who only say a journalled plan

    depths = fronts(problem, outcome, model_of(about) if about else None)
    return list(explain(outcome, about or None, fronts=depths).sentences)


def front_documents(
    problem: Problem, outcome: Plan | Infeasible
) -> dict[str, list[dict[str, Any]]]:
    """Of each model that runs, or would have to run, in stages: how depth trades flow for latency."""
    from placement.fronts import fronts  # with numpy, as above

    found = fronts(problem, outcome)
    return {model: [asdict(point) for point in points] for model, points in found.items()}


def _names(outcome: Plan | Infeasible) -> set[str]:
    names: set[str] = {rejection.model for rejection in outcome.rejections}
    if isinstance(outcome, Plan):
        names |= {slot.model for slot in outcome.slots} | {slot.id for slot in outcome.slots}
        return names | set(outcome.unplaced)
    return names | set(outcome.conflict)
