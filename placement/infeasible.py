"""When nothing fits: which demands cannot hold together, and which single change would help. Every fix is tried first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .demand import App
from .ids import ModelId
from .plan import Fix, Infeasible, Plan, Rejection
from .planner import Attempt, attempt
from .problem import Problem
from .relax import Relaxation, dropped, relaxations

MAX_TRIES = 60
MAX_FIXES = 5


class _Trial:
    """Tries apps on one inventory, a bounded number of times."""

    def __init__(self, problem: Problem, should_stop: Callable[[], bool]) -> None:
        self._problem = problem
        self._should_stop = should_stop
        self._tries_left = MAX_TRIES

    @property
    def spent(self) -> bool:
        """No more tries: what was not found may still exist."""
        return self._tries_left <= 0 or self._should_stop()

    def plan(self, app: App) -> Plan | None:
        """A plan of that app; None when none was found within the limits."""
        if self.spent:
            return None
        self._tries_left -= 1
        problem = replace(self._problem, app=app, current=None)
        return attempt(problem, self._should_stop, first=True).plan


def explain_infeasible(
    problem: Problem, failed: Attempt, should_stop: Callable[[], bool]
) -> Infeasible:
    """Names the conflict and tries fixes."""
    trial = _Trial(problem, should_stop)
    among = set(failed.conflict) or {d.id for d in problem.app.demands}
    conflict = _conflict(problem.app, among, trial)
    rejections = failed.rejections
    if not failed.complete:
        rejections = (*rejections, _unsure(conflict[0]))
    return Infeasible(
        generation=problem.inventory.generation,
        policy=problem.app.policy.name,
        seed=problem.seed,
        conflict=conflict,
        rejections=rejections,
        fixes=_fixes(problem.app, conflict, trial),
    )


def _conflict(app: App, among: set[ModelId], trial: _Trial) -> tuple[ModelId, ...]:
    """Deletion filter: leaves out every demand without which the rest still cannot be placed."""
    kept = tuple(d for d in app.demands if d.replicas_min > 0 and d.id in among)
    for demand in sorted(kept, key=lambda d: d.priority):
        rest = tuple(d for d in kept if d is not demand)
        if rest and trial.plan(replace(app, demands=rest)) is None and not trial.spent:
            kept = rest
    return tuple(d.id for d in kept)


def _unsure(model: ModelId) -> Rejection:
    return Rejection(
        model=model,
        constraint="search",
        reason="no plan was found within the search limit; that there is none is not proven",
        resolvable=True,
    )


def _fixes(app: App, conflict: tuple[ModelId, ...], trial: _Trial) -> tuple[Fix, ...]:
    fixes: list[Fix] = []
    offered: set[str] = set()
    for relaxation in relaxations(app, conflict):
        if relaxation.kind in offered or len(fixes) >= MAX_FIXES:
            continue
        plan = trial.plan(relaxation.app)
        if plan is not None:
            offered.add(relaxation.kind)
            fixes.append(_tight(relaxation, plan, trial))
    return tuple(fixes) or _combined(app, trial)


def _combined(app: App, trial: _Trial) -> tuple[Fix, ...]:
    """Adds demands one by one, the important first, each as mildly changed as the ones before allow."""
    accepted = replace(app, demands=())
    change: list[tuple[str, str | int | float | None]] = []
    says: list[str] = []
    for demand in sorted(app.demands, key=lambda d: -d.priority):
        wider = replace(accepted, demands=(*accepted.demands, demand))
        if trial.plan(wider) is None:
            milder = next(
                (r for r in relaxations(wider, (demand.id,)) if trial.plan(r.app) is not None),
                dropped(wider, demand),
            )
            change.extend(milder.change)
            says.append(milder.says)
            wider = milder.app
        accepted = wider
    return (Fix(change=tuple(change), says="; ".join(says)),) if change else ()


def _tight(relaxation: Relaxation, plan: Plan, trial: _Trial) -> Fix:
    """A lifted limit set to the figure that is reached without it, when that still holds; else lifted."""
    tighter = relaxation.tighten(plan) if relaxation.tighten else None
    if tighter is not None and trial.plan(tighter.app) is not None:
        return Fix(change=tighter.change, says=tighter.says)
    return Fix(change=relaxation.change, says=relaxation.says)
