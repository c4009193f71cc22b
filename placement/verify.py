"""Checks a plan against a problem, from the formats and figures alone: shares no code with the solver.

Recomputes memory, layers, capacity and budgets itself; predictions are recomputed with the cost model. Returns every
violation as one sentence; an empty tuple means that the plan may be applied.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from math import isclose

from .demand import App, Demand
from .ids import DeviceId, ModelId
from .plan import Plan, Slot
from .problem import Problem, facts_of
from .score import replica_value
from .verify_slot import Ground, slot_faults, stage_watts

_RELATIVE = 1e-6


def verify(problem: Problem, plan: Plan) -> tuple[str, ...]:
    """Every way in which the plan breaks the problem; empty when it holds."""
    ground = Ground(problem.inventory)
    found = list(_whole(problem, plan))
    demands = {d.id: d for d in problem.app.demands}
    for slot in plan.slots:
        demand = demands.get(slot.model)
        if demand is None:
            found.append(f"{slot.id}: nobody asked for {slot.model}")
            continue
        found.extend(f"{slot.id}: {fault}" for fault in slot_faults(ground, demand, slot))
    if not found:
        found.extend(_together(problem, ground, plan))
        found.extend(_worth(problem, ground, plan))
    return tuple(found)


def _whole(problem: Problem, plan: Plan) -> Iterator[str]:
    if plan.generation != problem.inventory.generation:
        yield f"solved on generation {plan.generation}, the inventory is {problem.inventory.generation}"
    for name, count in Counter(slot.id for slot in plan.slots).items():
        if count > 1:
            yield f"{name} is planned {count} times"
    counts = Counter(slot.model for slot in plan.slots)
    for demand in problem.app.demands:
        if not demand.replicas_min <= counts[demand.id] <= demand.replicas_max:
            yield (
                f"{demand.id} has {counts[demand.id]} replicas,"
                f" asked for are {demand.replicas_min} to {demand.replicas_max}"
            )


def _together(problem: Problem, ground: Ground, plan: Plan) -> Iterator[str]:
    taken: Counter[DeviceId] = Counter()
    for slot in plan.slots:
        for stage in slot.stages:
            taken.update(dict.fromkeys(stage.devices, stage.shares))
    for device, shares in taken.items():
        if shares > ground.devices[device].shares:
            yield f"{device} is given out {shares} times of {ground.devices[device].shares}"
    yield from _power(problem.app, ground, plan)
    yield from _tenants(problem.app, ground, plan)
    own: dict[ModelId, list[Slot]] = defaultdict(list)
    for slot in plan.slots:
        own[slot.model].append(slot)
    for demand in problem.app.demands:
        if own[demand.id]:
            yield from _model(ground, demand, own[demand.id])


def _power(app: App, ground: Ground, plan: Plan) -> Iterator[str]:
    node_w: dict[str, float] = defaultdict(float)
    rack_w: dict[str, float] = defaultdict(float)
    demands = {d.id: d for d in app.demands}
    for slot in plan.slots:
        each = stage_watts(ground, demands[slot.model], slot)
        for stage, watts in zip(slot.stages, each, strict=True):
            node_w[stage.node] += watts
            rack_w[ground.nodes[stage.node].rack] += watts
    budgets = app.budgets
    yield from _over("cluster", sum(node_w.values()), budgets.cluster_w)
    for node, watts in node_w.items():
        yield from _over(f"node {node}", watts, budgets.node_w)
    for rack, watts in rack_w.items():
        yield from _over(f"rack {rack}", watts, budgets.rack_w)


def _over(what: str, used: float, limit: float | None) -> Iterator[str]:
    if limit is not None and used > limit * (1 + 2 * _RELATIVE):
        yield f"{what} uses {used:.2f} of {limit:.2f}"


def _tenants(app: App, ground: Ground, plan: Plan) -> Iterator[str]:
    tenant_of = {d.id: d.tenant for d in app.demands}
    used: Counter[tuple[str, str]] = Counter()
    on_node: dict[str, set[str]] = defaultdict(set)
    for slot in plan.slots:
        for stage in slot.stages:
            on_node[stage.node].add(tenant_of[slot.model])
            kind = ground.devices[stage.devices[0]].device_class
            used[tenant_of[slot.model], kind] += slot.tp * stage.shares
    for tenant in app.tenants:
        for device_class, limit in tenant.max_devices:
            yield from _over(
                f"{tenant.name} of {device_class}", used[tenant.name, device_class], float(limit)
            )
        for node, names in on_node.items():
            if tenant.exclusive_nodes and tenant.name in names and len(names) > 1:
                yield f"{node} is shared by {sorted(names)} though {tenant.name} is exclusive"


def _model(ground: Ground, demand: Demand, own: list[Slot]) -> Iterator[str]:
    if len({slot.emulated for slot in own}) > 1:
        yield f"{demand.id} is served by real and by emulated engines"
    yield from _over(
        f"{demand.id} power", sum(s.predicted.power_w for s in own), demand.power_budget_w
    )
    price = sum(s.predicted.price_per_hour for s in own)
    yield from _over(f"{demand.id} price", price, demand.max_price_per_hour)
    tokens = sum(s.predicted.tokens_per_s for s in own)
    if demand.min_tokens_per_s is not None and tokens < demand.min_tokens_per_s * (1 - _RELATIVE):
        yield f"{demand.id} reaches {tokens:.1f} of {demand.min_tokens_per_s:.1f} tokens/s"
    if demand.spread == "none":
        return
    domains: Counter[str] = Counter()
    for slot in own:
        nodes = set(slot.nodes)
        domains.update(nodes if demand.spread == "node" else {ground.nodes[n].rack for n in nodes})
    for domain, count in domains.items():
        if count > 1:
            yield f"{demand.id} has {count} replicas on {demand.spread} {domain}"


def _worth(problem: Problem, ground: Ground, plan: Plan) -> Iterator[str]:
    demands = {d.id: d for d in problem.app.demands}
    total = 0.0
    for slot in plan.slots:
        demand = demands[slot.model]
        facts = facts_of(demand, ground.inventory)
        assert facts is not None
        total += replica_value(demand, facts, problem.app.policy, slot.predicted, slot.device_class)
    if not isclose(total, plan.value, rel_tol=_RELATIVE, abs_tol=1e-9):
        yield f"is worth {total:.6f}, not {plan.value:.6f}"
    if plan.bound < plan.value - _RELATIVE * abs(plan.value):
        yield f"is worth more than its bound {plan.bound:.6f}"
    if plan.proven and plan.bound - plan.value > 2 * _RELATIVE * abs(plan.bound):
        yield "is not proven: its bound is not reached"
