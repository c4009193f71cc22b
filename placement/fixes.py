"""Changes of a spec that make it feasible: single ones where one is enough, else a set of them. Each was tried as a whole.

A change that prices show to be too little is not tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from math import ceil

import numpy as np

from .contention import CERTAIN, Contention, Vector, contention
from .demand import App, Demand
from .elastic import elastic
from .ids import ModelId
from .plan import Fix, Plan
from .problem import with_demand
from .relax import SINGLE_STEPS, Relaxation, dropped, fewer, of_model, of_rules
from .trial import Trial

MAX_FIXES = 5
MAX_MODELS = 6
"""Models of a conflict, the least important first, whose changes are looked at."""

_MOST_SAID = 8
_MOST_IN_VAIN = 3
"""Models without any copy of which nothing fits either; then the others of the conflict are not looked at."""
_MOST_ROUNDS = 200
_HALVINGS = 4
"""Between a limit and what a plan without it takes."""


def fixes(
    whole: Contention, conflict: tuple[ModelId, ...], single: Trial, combined: Trial
) -> tuple[Fix, ...]:
    """Single changes, at most one of a kind; else one set of changes. Each way has its own tries."""
    found = tuple(islice(_single(whole, conflict, single), MAX_FIXES))
    return found or _combined(whole, conflict, combined)


# -- single changes -------------------------------------------------------------------------------------------------


def _single(whole: Contention, conflict: tuple[ModelId, ...], trial: Trial) -> Iterator[Fix]:
    app = trial.problem.app
    offered: set[str] = set()
    if set(whole.hopeless) <= set(conflict):
        in_vain = 0
        for demand in _pliable(app, whole, conflict):
            if len(app.demands) > 1 and trial.plan(dropped(app, demand).app) is None:
                in_vain += 1
                if in_vain == _MOST_IN_VAIN:
                    break
                continue
            yield from _offers(_promising(whole, demand, trial), offered, trial)
    yield from _offers(of_rules(app), offered, trial)


def _pliable(app: App, whole: Contention, conflict: tuple[ModelId, ...]) -> list[Demand]:
    """Models of the conflict without which the rest could hold together, as far as prices tell."""
    order = sorted((d for d in app.demands if d.id in conflict), key=lambda d: d.priority)
    rest = whole.among(set(whole.models) - set(conflict))
    if rest.proves(elastic(rest).prices):
        return []
    return [
        demand
        for demand in order[:MAX_MODELS]
        if not (part := whole.among(set(whole.models) - {demand.id})).proves(elastic(part).prices)
    ]


def _promising(whole: Contention, demand: Demand, trial: Trial) -> Iterator[Relaxation]:
    """Changes of one model, less those that leave the conflict proven at the same prices."""
    prices = elastic(whole).prices
    proven = demand.id in whole.models and whole.proves(prices)
    app = trial.problem.app
    if (
        proven
        and 0 < (room := _room(whole, prices, demand.id)) < demand.replicas_min - SINGLE_STEPS
    ):
        yield fewer(app, demand, room)
    for relaxation in of_model(app, demand):
        if not proven or _helps(whole, prices, demand.id, relaxation, trial):
            yield relaxation


def _room(whole: Contention, prices: Vector, model: ModelId) -> int:
    """Copies of one model for which the prices prove no conflict, all others running as asked."""
    position = whole.models.index(model)
    costs = whole.cheapest(prices)
    if costs[position] <= 0:
        return int(whole.least[position])
    others = float(whole.least @ costs) - float(whole.least[position] * costs[position])
    left = float(prices @ whole.limits) * (1 + CERTAIN) - others
    return max(0, int(left / costs[position] + CERTAIN))


def _helps(
    whole: Contention, prices: Vector, model: ModelId, relaxation: Relaxation, trial: Trial
) -> bool:
    """Whether the prices prove a conflict no more once one model is changed. Rows of that model alone may change, too."""
    changed = contention(replace(trial.problem, app=relaxation.app), only=model)
    if model in changed.hopeless:
        return False
    known = dict(zip(changed.rows, changed.limits, strict=True))
    foreign = np.zeros(len(whole.rows), dtype=bool)
    first = whole.models.index(model)
    ends = np.append(whole.starts[1:], len(whole.candidates))
    own = (whole.at >= whole.starts[first]) & (whole.at < ends[first])
    foreign[whole.row[~own]] = True
    kept = np.array(
        [
            p if f or row in known else 0.0
            for p, f, row in zip(prices, foreign, whole.rows, strict=True)
        ]
    )
    limits = np.array(
        [
            b if f else known.get(row, 0.0)
            for b, f, row in zip(whole.limits, foreign, whole.rows, strict=True)
        ]
    )
    rest = replace(whole, limits=limits).among(set(whole.models) - {model})
    price_of = dict(zip(whole.rows, kept, strict=True))
    own_prices = np.array([price_of.get(row, 0.0) for row in changed.rows])
    taken = float(rest.least @ rest.cheapest(kept) + changed.least @ changed.cheapest(own_prices))
    return taken <= float(kept @ limits) * (1 + CERTAIN)


def _offers(relaxations: Iterator[Relaxation], offered: set[str], trial: Trial) -> Iterator[Fix]:
    for relaxation in relaxations:
        if relaxation.kind not in offered and (plan := trial.plan(relaxation.app)) is not None:
            offered.add(relaxation.kind)
            yield _tight(relaxation, plan, trial)


def _tight(relaxation: Relaxation, plan: Plan, trial: Trial) -> Fix:
    """A lifted limit set to the figure that is reached without it, or less, when that still holds; else lifted."""
    tighter = relaxation.tighten(plan) if relaxation.tighten else None
    if tighter is not None:
        best = _lowered(tighter, trial)
        if best is None and trial.plan(tighter.app) is not None:
            best = tighter
        relaxation = best or relaxation
    return Fix(change=relaxation.change, says=relaxation.says, paths=relaxation.paths)


def _lowered(reached: Relaxation, trial: Trial) -> Relaxation | None:
    """A number nearer to the present one, as a plan without the limit takes more than it must; None when none is found."""
    if reached.scale is None:
        return None
    low, high, at = reached.scale
    found: Relaxation | None = None
    for _ in range(_HALVINGS):
        middle = (low + high) // 2
        if middle == low:
            break
        milder = at(middle)
        if trial.plan(milder.app) is None:
            low = middle
        else:
            found, high = milder, middle
    return found


# -- sets of changes ------------------------------------------------------------------------------------------------


def _combined(whole: Contention, conflict: tuple[ModelId, ...], trial: Trial) -> tuple[Fix, ...]:
    """Hopeless models changed so that each holds alone; then as many copies given up as it takes for all to hold."""
    app = trial.problem.app
    changes: list[Relaxation] = []
    for demand in (d for d in app.demands if d.id in whole.hopeless):
        milder = _alone(app, demand, trial)
        if milder is None:
            return ()
        changes.append(milder)
        app = milder.app
    state = contention(replace(trial.problem, app=app)) if changes else whole
    found = (
        _tried(app, _affordable(state), conflict, trial, most=0),
        _placeable(app, conflict, trial),
    )
    counts = max((c for c in found if c is not None), key=lambda c: _worth(app, c), default=None)
    if counts is None:
        return ()
    changes.extend(
        fewer(app, demand, counts[demand.id])
        for demand in app.demands
        if counts[demand.id] < demand.replicas_min
    )
    return (_joined(changes),) if changes else ()


def _alone(app: App, demand: Demand, trial: Trial) -> Relaxation | None:
    """The mildest change of a model with which it can run when nothing else does; else without it."""
    alone = replace(app, demands=(demand,))
    for relaxation in of_model(alone, demand):
        if trial.plan(relaxation.app) is not None:
            return replace(relaxation, app=with_demand(app, relaxation.app.demands[0]))
    return None if trial.spent else dropped(app, demand)


def _affordable(state: Contention) -> dict[ModelId, int]:
    """Copies of each model that prices do not rule out together: as asked, less the least important ones."""
    least = state.least.copy()
    for _ in range(_MOST_ROUNDS):
        part = state.with_least(least)
        prices = elastic(part).prices
        if not part.proves(prices):
            break
        costs, worth = state.cheapest(prices), float(prices @ state.limits)
        while least @ costs > worth * (1 + CERTAIN):
            d = min(
                np.flatnonzero((least > 0) & (costs > 0)),
                key=lambda d: (state.priority[d], least[d] <= 1, -costs[d]),
            )
            excess = ceil((least @ costs - worth) / costs[d])
            least[d] -= min(excess, max(1.0, least[d] - 1))
    return {model: int(count) for model, count in zip(state.models, least, strict=True)}


def _placeable(app: App, conflict: tuple[ModelId, ...], trial: Trial) -> dict[ModelId, int] | None:
    """Copies that the best plan places when none must run; fewer where the search cannot find even these again."""
    free = tuple(
        replace(
            d,
            replicas_min=0,
            replicas_max=d.replicas_max if d.min_tokens_per_s else d.replicas_min,
        )
        for d in app.demands
    )
    best = trial.best(replace(app, demands=free))
    if best is None:
        return None
    placed = Counter(slot.model for slot in best.slots)
    return _tried(app, placed, conflict, trial, most=sum(placed.values()))


def _worth(app: App, counts: dict[ModelId, int]) -> int:
    """Copies that stay, the important ones counting more."""
    return sum((1 + max(0, d.priority)) * counts[d.id] for d in app.demands)


def _tried(
    app: App,
    wanted: Mapping[ModelId, int],
    conflict: tuple[ModelId, ...],
    trial: Trial,
    most: int,
) -> dict[ModelId, int] | None:
    """So many copies, at most those that must run, if they hold; else up to `most` less, those of the conflict first."""
    counts = {d.id: min(d.replicas_min, wanted.get(d.id, 0)) for d in app.demands}
    order = sorted(app.demands, key=lambda d: (d.id not in conflict, d.priority))
    given_up = 0
    while trial.plan(_with_counts(app, _given_up(counts, order, given_up))) is None:
        if trial.spent or given_up >= most:
            return None
        given_up = min(most, max(1, 2 * given_up))
    return _given_up(counts, order, given_up)


def _given_up(counts: dict[ModelId, int], order: list[Demand], number: int) -> dict[ModelId, int]:
    """That many copies less: all but the last one of each model in turn, then the last ones."""
    left = dict(counts)
    for keep in (1, 0):
        for demand in order:
            give = min(number, max(0, left[demand.id] - keep))
            left[demand.id] -= give
            number -= give
    return left


def _with_counts(app: App, counts: dict[ModelId, int]) -> App:
    for demand in app.demands:
        if counts[demand.id] < demand.replicas_min:
            app = fewer(app, demand, counts[demand.id]).app
    return app


def _joined(changes: list[Relaxation]) -> Fix:
    said = "; ".join(change.says for change in changes[:_MOST_SAID])
    left = len(changes) - _MOST_SAID
    return Fix(
        change=tuple(pair for change in changes for pair in change.change),
        paths=tuple(path for change in changes for path in change.paths),
        says=f"{said}; and {left} more such changes" if left > 0 else said,
    )
