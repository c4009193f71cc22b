"""Milder specs, for an app that cannot be placed: every single change that could help, mild ones first within a kind.

Pure rewriting of apps, with the spec's own keys; whether a change helps is for others to try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, floor

from .demand import App, Demand, Tenant
from .devices import Dtype
from .ids import ModelId
from .plan import Plan, Predicted
from .problem import with_demand

Value = str | int | float | None

SINGLE_STEPS = 8
"""Numbers of copies tried one by one."""

_SMALLER: tuple[Dtype, ...] = ("bf16", "fp8", "int8", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """A milder app.

    Attributes:
        kind: only the mildest helpful one of a kind is worth offering.
        model: whose part of the spec changes; None = a rule over all models.
        change: dotted path of keys in the spec -> new value, None = remove the key.
        paths: of `change`, key by key.
        says: the change in words.
        tighten: for a lifted limit, the limit that a plan without it keeps to.
        scale: for a limit that is a whole number: what it is now, what it becomes, and this change for numbers between.
    """

    kind: str
    model: ModelId | None = None
    change: tuple[tuple[str, Value], ...]
    paths: tuple[tuple[str, ...], ...]
    says: str
    app: App
    tighten: Callable[[Plan], Relaxation | None] | None = None
    scale: tuple[int, int, Callable[[int], Relaxation]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    """A numeric limit of a model, in the unit of the spec."""

    key: str
    get: Callable[[Demand], float | None]
    put: Callable[[Demand, float | None], Demand]
    reached: Callable[[list[Predicted]], int]


def _seconds(value_ms: float | None) -> float | None:
    return None if value_ms is None else value_ms / 1e3


def _milliseconds(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * 1e3


_LIMITS = (
    _Limit(
        key="max_latency_ms",
        get=lambda d: _milliseconds(d.max_ttft_s),
        put=lambda d, value: replace(d, max_ttft_s=_seconds(value)),
        reached=lambda own: ceil(max(p.ttft_s for p in own) * 1e3),
    ),
    _Limit(
        key="max_token_ms",
        get=lambda d: _milliseconds(d.max_token_s),
        put=lambda d, value: replace(d, max_token_s=_seconds(value)),
        reached=lambda own: ceil(max(p.token_s for p in own) * 1e3),
    ),
    _Limit(
        key="min_tokens_per_s",
        get=lambda d: d.min_tokens_per_s,
        put=lambda d, value: replace(d, min_tokens_per_s=value),
        reached=lambda own: floor(sum(p.tokens_per_s for p in own)),
    ),
    _Limit(
        key="power_budget_watts",
        get=lambda d: d.power_budget_w,
        put=lambda d, value: replace(d, power_budget_w=value),
        reached=lambda own: ceil(sum(p.power_w for p in own)),
    ),
    _Limit(
        key="max_price_per_hour",
        get=lambda d: d.max_price_per_hour,
        put=lambda d, value: replace(d, max_price_per_hour=value),
        reached=lambda own: ceil(sum(p.price_per_hour for p in own)),
    ),
)


def relaxations(app: App, models: tuple[ModelId, ...]) -> Iterator[Relaxation]:
    """Milder apps, mild ones first within a kind: those of one model, then those of the rules over all."""
    for demand in app.demands:
        if demand.id in models:
            yield from of_model(app, demand)
    yield from of_rules(app)


def of_model(app: App, demand: Demand) -> Iterator[Relaxation]:
    """Milder apps that differ in one model."""
    yield from _limits(app, demand)
    yield from _sizes(app, demand)
    yield from _placing(app, demand)
    yield from _replicas(app, demand)


def _change(
    app: App, demand: Demand, key: str, value: str | int | float | None, says: str, changed: Demand
) -> Relaxation:
    return Relaxation(
        kind=f"{demand.id}.{key}",
        model=demand.id,
        change=((f"models.{demand.id}.{key}", value),),
        paths=(("models", demand.id, *key.split(".")),),
        says=says,
        app=with_demand(app, changed),
    )


def _replicas(app: App, demand: Demand) -> Iterator[Relaxation]:
    for count in _counts_below(demand.replicas_min):
        yield fewer(app, demand, count)
    if len(app.demands) > 1 and demand.replicas_min > 0:
        yield dropped(app, demand)


def _counts_below(count: int) -> Iterator[int]:
    """Smaller numbers of copies down to 1: one by one at first, then in leaps, so that large numbers end too."""
    for step in range(count):
        count = min(count - 1, count if step < SINGLE_STEPS else count * 3 // 4)
        if count < 1:
            return
        yield count


def fewer(app: App, demand: Demand, count: int) -> Relaxation:
    """With `count` copies that must run."""
    if demand.replicas_min == demand.replicas_max:
        key, changed = "replicas", replace(demand, replicas_min=count, replicas_max=count)
    else:
        key, changed = "replicas.min", replace(demand, replicas_min=count)
    says = f"{key} of {demand.id}: {demand.replicas_min} -> {count}"
    return _change(app, demand, key, count, says, changed)


def dropped(app: App, demand: Demand) -> Relaxation:
    """Without any copy of the model."""
    return fewer(app, demand, 0)


def _sizes(app: App, demand: Demand) -> Iterator[Relaxation]:
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
    if demand.dtype is not None:
        says = f"dtype of {demand.id}: {demand.dtype} -> auto"
        yield _change(app, demand, "dtype", "auto", says, replace(demand, dtype=None))
    for dtype in _SMALLER:
        if dtype != demand.dtype:
            says = f"dtype of {demand.id}: {demand.dtype or 'auto'} -> {dtype}"
            yield _change(app, demand, "dtype", dtype, says, replace(demand, dtype=dtype))


def _context(app: App, demand: Demand, context: int) -> Relaxation:
    says = f"context of {demand.id}: {demand.context} -> {context}"
    return _change(app, demand, "context", context, says, replace(demand, context=context))


def _limits(app: App, demand: Demand) -> Iterator[Relaxation]:
    """Limits of one model, lifted; then tightened to what is reached without them."""
    for limit in _LIMITS:
        if limit.get(demand) is not None:
            lifted = _removed(app, demand, limit.key, limit.put(demand, None))
            yield replace(lifted, tighten=partial(_tightened, app, demand, limit))


def _tightened(app: App, demand: Demand, limit: _Limit, plan: Plan) -> Relaxation | None:
    """The limit at what the model's slots reach in a plan, rounded to the safe side; None when it has no slot."""
    own = [slot.predicted for slot in plan.slots if slot.model == demand.id]
    if not own:
        return None
    reached = limit.reached(own)
    says = f"{limit.key} of {demand.id}: {limit.get(demand):g} -> {reached}"
    key = f"constraints.{limit.key}"
    return _change(app, demand, key, reached, says, limit.put(demand, float(reached)))


def _placing(app: App, demand: Demand) -> Iterator[Relaxation]:
    if demand.spread != "none":
        says = f"spread of {demand.id}: {demand.spread} -> none"
        changed = replace(demand, spread="none")
        yield _change(app, demand, "constraints.spread", "none", says, changed)
    if demand.pin_nodes is not None:
        yield _removed(app, demand, "pin", replace(demand, pin_nodes=None))
    if demand.banned:
        yield _removed(app, demand, "banned_hardware", replace(demand, banned=frozenset()))
    if demand.build == "never":
        says = f"artifacts.build of {demand.id}: never -> allowed"
        yield _change(
            app, demand, "artifacts.build", "allowed", says, replace(demand, build="allowed")
        )
    yield from _engines(app, demand)


def _engines(app: App, demand: Demand) -> Iterator[Relaxation]:
    if demand.engines is not None:
        says = f"engines of {demand.id}: any"
        yield _change(app, demand, "engines", None, says, replace(demand, engines=None))
    if demand.requires:
        says = f"{demand.id} without requiring {', '.join(sorted(demand.requires))}"
        yield _change(app, demand, "requires", None, says, replace(demand, requires=frozenset()))
    if demand.arithmetic == "exact":
        says = f"arithmetic of {demand.id}: exact -> fast"
        yield _change(app, demand, "arithmetic", "fast", says, replace(demand, arithmetic="fast"))


def _removed(app: App, demand: Demand, key: str, changed: Demand) -> Relaxation:
    return _change(app, demand, f"constraints.{key}", None, f"{demand.id} without {key}", changed)


def of_rules(app: App) -> Iterator[Relaxation]:
    """Milder apps that differ in a budget of power or the quota of a tenant."""
    budgets = app.budgets
    if budgets.cluster_w is not None:
        yield replace(_no_budget(app, "cluster"), tighten=partial(_cluster_budget, app))
    if budgets.rack_w is not None:
        yield _no_budget(app, "rack")
    if budgets.node_w is not None:
        yield replace(_no_budget(app, "node"), tighten=partial(_node_budget, app))
    for tenant in app.tenants:
        if tenant.max_devices:
            relaxed = _with_tenant(app, replace(tenant, max_devices=()))
            yield Relaxation(
                kind=f"tenants.{tenant.name}",
                change=((f"tenants.{tenant.name}.max_devices", None),),
                paths=(("tenants", tenant.name, "max_devices"),),
                says=f"no device quota for tenant {tenant.name}",
                app=relaxed,
                tighten=partial(_quota, app, tenant),
            )


def _with_tenant(app: App, changed: Tenant) -> App:
    return replace(
        app, tenants=tuple(changed if t.name == changed.name else t for t in app.tenants)
    )


def _no_budget(app: App, scope: str) -> Relaxation:
    return _budget(app, scope, None, f"no power budget for the {scope}")


def _budget(app: App, scope: str, watts: int | None, says: str) -> Relaxation:
    budgets = replace(app.budgets, **{f"{scope}_w": None if watts is None else float(watts)})
    return Relaxation(
        kind=f"budgets.{scope}",
        change=((f"budgets.power_watts.{scope}", watts),),
        paths=(("budgets", "power_watts", scope),),
        says=says,
        app=replace(app, budgets=budgets),
    )


def _cluster_budget(app: App, plan: Plan) -> Relaxation | None:
    """The budget at what a plan without it draws."""
    watts = ceil(sum(slot.predicted.power_w for slot in plan.slots))
    return _raised(app, "cluster", app.budgets.cluster_w, watts)


def _node_budget(app: App, plan: Plan) -> Relaxation | None:
    drawn: dict[str, float] = {}
    for slot in plan.slots:
        for node in slot.nodes:
            drawn[node] = drawn.get(node, 0.0) + slot.predicted.power_w / slot.pp
    return _raised(app, "node", app.budgets.node_w, ceil(max(drawn.values(), default=0.0)))


def _raised(app: App, scope: str, before: float | None, watts: int) -> Relaxation | None:
    if before is None or watts <= before:
        return None

    def at(value: int) -> Relaxation:
        says = f"power budget of the {scope}: {before:g} -> {value} W"
        return _budget(app, scope, value, says)

    return replace(at(watts), scale=(floor(before), watts, at))


def _quota(app: App, tenant: Tenant, plan: Plan) -> Relaxation | None:
    """The quotas at what a plan without them uses, where that is more; None where several would change."""
    models = {d.id for d in app.demands if d.tenant == tenant.name}
    used = dict.fromkeys((name for name, _ in tenant.max_devices), 0)
    for slot in plan.slots:
        if slot.model in models and slot.device_class in used:
            used[slot.device_class] += sum(len(s.devices) * s.shares for s in slot.stages)
    over = [(name, limit) for name, limit in tenant.max_devices if used[name] > limit]
    if len(over) != 1:
        return None
    ((name, limit),) = over

    def at(value: int) -> Relaxation:
        return _quota_at(app, tenant, name, value)

    return replace(at(used[name]), scale=(limit, used[name], at))


def _quota_at(app: App, tenant: Tenant, name: str, value: int) -> Relaxation:
    before = dict(tenant.max_devices)[name]
    quotas = tuple((n, value if n == name else q) for n, q in tenant.max_devices)
    path = ("tenants", tenant.name, "max_devices", name)
    return Relaxation(
        kind=f"tenants.{tenant.name}",
        change=((".".join(path), value),),
        paths=(path,),
        says=f"quota of tenant {tenant.name} for {name}: {before} -> {value}",
        app=_with_tenant(app, replace(tenant, max_devices=quotas)),
    )
