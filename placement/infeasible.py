"""When nothing fits: which demands cannot hold together, what they are short of, and what would help.

Prices over rows rule out at once what cannot help; whatever is offered was tried as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .additions import additions
from .contention import Contention, contention, contention_of
from .demand import App
from .elastic import Shortage, elastic
from .fixes import fixes
from .ids import ModelId
from .plan import Infeasible, Rejection
from .planner import Attempt
from .problem import Problem
from .row_words import shortage
from .trial import Trial

_MOST_TRIED = 16
"""Models of a conflict up to which each is left out for a try, although divisible copies would fit without it."""

_CONFLICT_WORK, _FIXES_WORK, _ADDITIONS_WORK = 3000, 5000, 3000
"""Copies and models that the tries of each part may place: some hundred tries of a small spec, a handful of a large one."""


def explain_infeasible(
    problem: Problem, failed: Attempt, should_stop: Callable[[], bool]
) -> Infeasible:
    """Names the conflict and tries fixes."""

    def trial(max_work: int) -> Trial:
        return Trial(problem, should_stop, max_work)

    table = failed.table
    whole = contention_of(problem.app, table) if table else contention(problem)
    conflict = _conflict(problem.app, failed, whole, trial(_CONFLICT_WORK))
    short = elastic(whole.among(conflict))
    # What the planner itself proved stands first.
    known = 1 if failed.conflict and not whole.hopeless else 0
    said = list(_short(conflict, short))
    if not said and not known and not whole.hopeless:
        said.append(_whole_copies(conflict) if failed.complete else _unsure(conflict[0]))
    elif not failed.complete and not whole.proves(short.prices):
        said.append(_unsure(conflict[0]))
    rejections = (*failed.rejections[:known], *said, *failed.rejections[known:])
    return Infeasible(
        generation=problem.inventory.generation,
        policy=problem.app.policy.name,
        seed=problem.seed,
        conflict=conflict,
        rejections=rejections,
        fixes=fixes(whole, conflict, trial(_FIXES_WORK), trial(_FIXES_WORK)),
        additions=additions(whole, conflict, trial(_ADDITIONS_WORK)),
    )


def _conflict(app: App, failed: Attempt, whole: Contention, trial: Trial) -> tuple[ModelId, ...]:
    """A set of models that cannot run together, while the rest of it can without any one of them.

    Prices say so where divisible copies conflict; else models are left out by halves, quarters and one by one, as long as
    the rest is seen to fail.
    """
    if whole.hopeless:
        return whole.hopeless[:1]
    among = set(failed.conflict)
    kept = tuple(d.id for d in app.demands if d.replicas_min > 0 and (not among or d.id in among))
    rank = {d.id: d.priority for d in app.demands}
    proven = _priced(whole, kept)
    if proven:
        kept = _leave_out(proven, rank, lambda rest: _priced(whole, rest))
    if len(kept) > _MOST_TRIED and proven:
        return kept

    def tried(rest: tuple[ModelId, ...]) -> tuple[ModelId, ...]:
        part = replace(app, demands=tuple(d for d in app.demands if d.id in rest))
        return rest if trial.plan(part) is None and not trial.spent else ()

    return _leave_out(kept, rank, tried)


def _priced(whole: Contention, models: tuple[ModelId, ...]) -> tuple[ModelId, ...]:
    """Few of the models that certainly cannot run together; none when divisible copies of all would fit."""
    part = whole.among(models)
    prices = elastic(part).prices
    return part.fewest(prices) if part.proves(prices) else ()


def _leave_out(
    kept: tuple[ModelId, ...],
    rank: dict[ModelId, int],
    fails: Callable[[tuple[ModelId, ...]], tuple[ModelId, ...]],
) -> tuple[ModelId, ...]:
    """Leaves out what the conflict does not need, the least important first; `fails` gives what fails of a rest, or nothing."""
    size = max(1, len(kept) // 2)
    while True:
        for block in tuple(_blocks(sorted(kept, key=lambda model: rank[model]), size)):
            rest = tuple(model for model in kept if model not in block)
            if rest and len(rest) < len(kept) and (failing := fails(rest)):
                kept = tuple(model for model in kept if model in failing)
        if size == 1:
            return kept
        size = min(size, len(kept)) // 2 or 1


def _blocks(models: list[ModelId], size: int) -> Iterator[set[ModelId]]:
    for start in range(0, len(models), size):
        yield set(models[start : start + size])


def _short(conflict: tuple[ModelId, ...], short: Shortage) -> Iterator[Rejection]:
    """The least that is missing, in words."""
    if not short.missing:
        return
    said = " and ".join(shortage(row, amount) for row, amount in short.missing.items())
    row, amount = next(iter(short.missing.items()))
    kind = row.partition(":")[0]
    yield Rejection(
        model=conflict[0],
        constraint="capacity" if kind == "devices" else kind,
        reason=f"{_together(conflict)} short of {said}",
        shortage=amount,
        resolvable=True,
    )


def _together(conflict: tuple[ModelId, ...]) -> str:
    if len(conflict) == 1:
        return f"{conflict[0]} alone is"
    if len(conflict) > _MOST_TRIED:
        return f"{len(conflict)} models together are"
    return f"{', '.join(conflict[:-1])} and {conflict[-1]} together are"


def _whole_copies(conflict: tuple[ModelId, ...]) -> Rejection:
    """Why there is no plan although nothing is short."""
    return Rejection(
        model=conflict[0],
        constraint="capacity",
        reason=f"{_together(conflict)} without room: there is enough of everything for parts of copies, not for whole ones",
        resolvable=True,
    )


def _unsure(model: ModelId) -> Rejection:
    return Rejection(
        model=model,
        constraint="search",
        reason="no plan was found within the search limit; that there is none is not proven",
        resolvable=True,
    )
