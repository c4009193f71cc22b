"""Replicas whose stages lie in several pools, from the spec to the plan."""

from __future__ import annotations

from dataclasses import replace

from support.labs import LLAMA_8B, LLAMA_70B, SMOLLM2, app, demand, devices, inventory, node

from placement import Infeasible, Plan, Problem, diff, solve, verify
from placement.demand import Budgets, Tenant
from placement.ids import NodeId
from placement.proof import audit

A100, H100, T4 = "NVIDIA_A100_80G", "NVIDIA_H100_80G", "NVIDIA_T4_16G"

MIXED = inventory(
    node("a", devices("a", A100, 1)),
    node("h", devices("h", H100, 1)),
    node("t", devices("t", T4, 2)),
)
LARGE = demand("m", LLAMA_70B, (1, 1), context=2048, concurrency=4, dtype="fp16")


def _planned(problem: Problem) -> Plan:
    result = solve(problem)
    assert isinstance(result, Plan)
    assert verify(problem, result) == ()
    assert audit(problem, result).faults == ()
    return result


def test_a_model_too_large_for_any_pool_spans_classes() -> None:
    problem = Problem(inventory=MIXED, app=app(LARGE))
    plan = _planned(problem)
    (slot,) = plan.slots
    kinds = {MIXED.device(d).device_class for d in slot.devices}
    assert {A100, H100} <= kinds
    assert slot.stages[0].layers[0] == 0
    assert slot.stages[-1].layers[1] == LLAMA_70B.layers
    assert slot.device_class == MIXED.device(slot.devices[0]).device_class
    assert plan.proven


def test_the_same_plan_goes_on_where_it_runs() -> None:
    problem = Problem(inventory=MIXED, app=app(LARGE))
    plan = _planned(problem)
    again = _planned(replace(problem, current=plan))
    assert [change.kind for change in diff(plan, again)] == ["keep"]


def test_two_pools_of_one_class_make_one_pipeline() -> None:
    there = inventory(*(node(n, devices(n, T4, 1)) for n in ("n0", "n1")))
    wide = demand("m1", LLAMA_8B, (1, 1), context=512, concurrency=1)
    pinned = demand("m2", SMOLLM2, (0, 1), pin_nodes=frozenset({NodeId("n0")}))
    plan = _planned(Problem(inventory=there, app=app(wide, pinned)))
    assert {slot.model: set(slot.nodes) for slot in plan.slots} == {"m1": {"n0", "n1"}}


def test_a_node_budget_counts_the_watts_of_the_stage_that_is_there() -> None:
    problem = Problem(inventory=MIXED, app=app(LARGE))
    (slot,) = _planned(problem).slots
    enough = replace(problem.app, budgets=Budgets(node_w=slot.predicted.power_w))
    _planned(replace(problem, app=enough))
    scarce = replace(problem.app, budgets=Budgets(node_w=100.0))
    assert isinstance(solve(replace(problem, app=scarce)), Infeasible)


def test_a_quota_of_one_class_forbids_the_chains_that_need_it() -> None:
    tenant = Tenant(name="default", max_devices=((H100, 0),))
    barred = replace(app(LARGE), tenants=(tenant,))
    assert isinstance(solve(Problem(inventory=MIXED, app=barred)), Infeasible)
