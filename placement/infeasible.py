"""When nothing fits: which demands cannot hold together, and which single change would help. Every fix is tried first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil, floor

from .demand import App, Demand
from .devices import Dtype
from .ids import ModelId
from .plan import Fix, Infeasible, Plan, Rejection
from .planner import Attempt, attempt
from .problem import Problem, with_demand

MAX_TRIES = 60
MAX_FIXES = 5
_SMALLER: tuple[Dtype, ...] = ("bf16", "fp8", "int8", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relaxation:
    """A milder app: what changes, said in words, and its kind (only the mildest of a kind is offered)."""

    kind: str
    change: tuple[tuple[str, str | int | float | None], ...]
    says: str
    app: App


class _Trial:
    """Tries apps on one inventory, a bounded number of times."""

    def __init__(self, problem: Problem, should_stop: Callable[[], bool]) -> None:
        self._problem = problem
        self._should_stop = should_stop
        self._tries_left = MAX_TRIES

    def plan(self, app: App) -> Plan | None:
        """A plan of that app; None when none was found within the limits."""
        if self._tries_left <= 0 or self._should_stop():
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
        if rest and trial.plan(replace(app, demands=rest)) is None:
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
    for relaxation in _relaxations(app, conflict):
        if relaxation.kind in offered or len(fixes) >= MAX_FIXES:
            continue
        plan = trial.plan(relaxation.app)
        if plan is not None:
            offered.add(relaxation.kind)
            fixes.append(_tight(app, relaxation, plan, trial))
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
                (r for r in _relaxations(wider, (demand.id,)) if trial.plan(r.app) is not None),
                _dropped(wider, demand),
            )
            change.extend(milder.change)
            says.append(milder.says)
            wider = milder.app
        accepted = wider
    return (Fix(change=tuple(change), says="; ".join(says)),) if change else ()


def _relaxations(app: App, models: tuple[ModelId, ...]) -> Iterator[_Relaxation]:
    """Milder apps, mild ones first within a kind."""
    for demand in app.demands:
        if demand.id in models:
            yield from _limits(app, demand)
            yield from _sizes(app, demand)
            yield from _placing(app, demand)
            yield from _replicas(app, demand)
    yield from _budgets(app)


def _change(
    app: App, demand: Demand, key: str, value: str | int | float | None, says: str, changed: Demand
) -> _Relaxation:
    return _Relaxation(
        kind=f"{demand.id}.{key}",
        change=((f"models.{demand.id}.{key}", value),),
        says=says,
        app=with_demand(app, changed),
    )


def _replicas(app: App, demand: Demand) -> Iterator[_Relaxation]:
    for count in range(demand.replicas_min - 1, 0, -1):
        yield _fewer(app, demand, count)
    if len(app.demands) > 1 and demand.replicas_min > 0:
        yield _dropped(app, demand)


def _fewer(app: App, demand: Demand, count: int) -> _Relaxation:
    if demand.replicas_min == demand.replicas_max:
        key, changed = "replicas", replace(demand, replicas_min=count, replicas_max=count)
    else:
        key, changed = "replicas.min", replace(demand, replicas_min=count)
    says = f"{key} of {demand.id}: {demand.replicas_min} -> {count}"
    return _change(app, demand, key, count, says, changed)


def _dropped(app: App, demand: Demand) -> _Relaxation:
    return _fewer(app, demand, 0)


def _sizes(app: App, demand: Demand) -> Iterator[_Relaxation]:
    facts = demand.model.facts
    if facts is not None and demand.context > facts.window > 0:
        yield _context(app, demand, facts.window)
    context = demand.context // 2
    while context >= 256:
        yield _context(app, demand, context)
        context //= 2
    concurrency = demand.concurrency // 2
    while concurrency >= 1:
        says = f"concurrency of {demand.id}: {demand.concurrency} -> {concurrency}"
        changed = replace(demand, concurrency=concurrency)
        yield _change(app, demand, "concurrency", concurrency, says, changed)
        concurrency //= 2
    for dtype in _SMALLER:
        if dtype != demand.dtype:
            says = f"dtype of {demand.id}: {demand.dtype or 'auto'} -> {dtype}"
            yield _change(app, demand, "dtype", dtype, says, replace(demand, dtype=dtype))


def _context(app: App, demand: Demand, context: int) -> _Relaxation:
    says = f"context of {demand.id}: {demand.context} -> {context}"
    return _change(app, demand, "context", context, says, replace(demand, context=context))


def _limits(app: App, demand: Demand) -> Iterator[_Relaxation]:
    """Limits of one model that can be lifted; `_tight` sets them to what is then reached."""
    lifted = {
        "max_latency_ms": replace(demand, max_ttft_s=None) if demand.max_ttft_s else None,
        "max_token_ms": replace(demand, max_token_s=None) if demand.max_token_s else None,
        "min_tokens_per_s": replace(demand, min_tokens_per_s=None)
        if demand.min_tokens_per_s
        else None,
        "power_budget_watts": replace(demand, power_budget_w=None)
        if demand.power_budget_w is not None
        else None,
        "max_price_per_hour": replace(demand, max_price_per_hour=None)
        if demand.max_price_per_hour is not None
        else None,
    }
    for key, changed in lifted.items():
        if changed is not None:
            yield _removed(app, demand, key, changed)


def _placing(app: App, demand: Demand) -> Iterator[_Relaxation]:
    if demand.spread != "none":
        says = f"spread of {demand.id}: {demand.spread} -> none"
        changed = replace(demand, spread="none")
        yield _change(app, demand, "constraints.spread", "none", says, changed)
    if demand.pin_nodes is not None:
        yield _removed(app, demand, "pin", replace(demand, pin_nodes=None))
    if demand.banned:
        yield _removed(app, demand, "banned_hardware", replace(demand, banned=frozenset()))
    if demand.engines is not None:
        says = f"engines of {demand.id}: any"
        yield _change(app, demand, "engines", None, says, replace(demand, engines=None))


def _removed(app: App, demand: Demand, key: str, changed: Demand) -> _Relaxation:
    return _change(app, demand, f"constraints.{key}", None, f"{demand.id} without {key}", changed)


def _budgets(app: App) -> Iterator[_Relaxation]:
    for scope in ("cluster", "rack", "node"):
        field = f"{scope}_w"
        if getattr(app.budgets, field) is not None:
            yield _Relaxation(
                kind=f"budgets.{scope}",
                change=((f"budgets.power_watts.{scope}", None),),
                says=f"no power budget for the {scope}",
                app=replace(app, budgets=replace(app.budgets, **{field: None})),
            )
    for tenant in app.tenants:
        if tenant.max_devices:
            relaxed = replace(tenant, max_devices=())
            yield _Relaxation(
                kind=f"tenants.{tenant.name}",
                change=((f"tenants.{tenant.name}.max_devices", None),),
                says=f"no device quota for tenant {tenant.name}",
                app=replace(
                    app, tenants=tuple(relaxed if t is tenant else t for t in app.tenants)
                ),
            )


def _tight(app: App, relaxation: _Relaxation, plan: Plan, trial: _Trial) -> Fix:
    """The lifted limit at the figure that is reached without it, when that still holds; else lifted."""
    ((path, value),) = relaxation.change
    key = path.rpartition(".")[2]
    model = ModelId(path.split(".constraints.")[0].removeprefix("models."))
    demand = next((d for d in app.demands if d.id == model), None)
    reached = None if demand is None or value is not None else _reached(plan, model, key)
    if demand is not None and reached is not None:
        field, scale = _FIELDS[key]
        changed = replace(demand, **{field: reached * scale})
        if trial.plan(with_demand(app, changed)) is not None:
            says = f"{key} of {model}: {getattr(demand, field) / scale:g} -> {reached}"
            return Fix(change=((path, reached),), says=says)
    return Fix(change=relaxation.change, says=relaxation.says)


_FIELDS = {
    "max_latency_ms": ("max_ttft_s", 1e-3),
    "max_token_ms": ("max_token_s", 1e-3),
    "min_tokens_per_s": ("min_tokens_per_s", 1.0),
    "power_budget_watts": ("power_budget_w", 1.0),
    "max_price_per_hour": ("max_price_per_hour", 1.0),
}


def _reached(plan: Plan, model: ModelId, key: str) -> int | None:
    """What the model's slots reach in a plan, rounded to the safe side, in the unit of the spec."""
    own = [slot.predicted for slot in plan.slots if slot.model == model]
    if not own:
        return None
    match key:
        case "max_latency_ms":
            return ceil(max(p.ttft_s for p in own) * 1e3)
        case "max_token_ms":
            return ceil(max(p.token_s for p in own) * 1e3)
        case "min_tokens_per_s":
            return floor(sum(p.tokens_per_s for p in own))
        case "power_budget_watts":
            return ceil(sum(p.power_w for p in own))
        case "max_price_per_hour":
            return ceil(sum(p.price_per_hour for p in own))
        case _:
            return None
