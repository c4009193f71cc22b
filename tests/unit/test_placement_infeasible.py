"""Infeasible is a value: it names a conflict, gives figures, and offers changes that were tried."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from support.labs import (
    LLAMA_8B,
    LLAMA_70B,
    SMOLLM2,
    app,
    cpu,
    datacentre,
    demand,
    devices,
    inventory,
    node,
    with_change,
)

from orchestrator.what_if import KeyChange, parse_what_if
from placement import Infeasible, Plan, Problem, solve
from placement.demand import App, Budgets, Tenant
from placement.ids import NodeId
from placement.infeasible import explain_infeasible
from placement.inventory import Inventory
from placement.planner import Attempt, attempt
from placement.what_if import changed


def refused(inv: Inventory, asked: App) -> Infeasible:
    result = solve(Problem(inventory=inv, app=asked))
    assert isinstance(result, Infeasible)
    for fix in result.fixes:
        assert isinstance(solve(Problem(inventory=inv, app=with_change(asked, fix))), Plan), fix
    assert result.fixes
    return result


def example() -> App:
    """The published example: three spread replicas pinned to two nodes, a quota of two groups."""
    big = demand(
        "llama70",
        LLAMA_70B,
        3,
        context=8192,
        concurrency=16,
        dtype="bf16",
        max_ttft_s=0.8,
        max_token_s=0.06,
        min_tokens_per_s=900,
        power_budget_w=9000,
        max_price_per_hour=60,
        preferred=frozenset({"NVIDIA_H100_80G", "FURIOSA_RNGD"}),
        banned=frozenset({"NVIDIA_T4_16G"}),
        spread="node",
        pin_nodes=frozenset({NodeId("gpu-1"), NodeId("gpu-2")}),
        tenant="research",
        priority=10,
    )
    small = demand("smollm2", SMOLLM2, 2, source="package://x", engines=frozenset({"openvino"}))
    return app(
        small,
        big,
        budgets=Budgets(cluster_w=20000, rack_w=8000, node_w=3000),
        tenants=(Tenant(name="research", max_devices=(("NVIDIA_H100_80G", 8),)),),
    )


def test_the_published_example_needs_one_replica_less() -> None:
    result = refused(datacentre(), example())
    assert result.conflict == ("llama70",)
    assert (("models.llama70.replicas", 2),) in [fix.change for fix in result.fixes]
    assert "replicas of llama70: 3 -> 2" in [fix.says for fix in result.fixes]


def test_too_little_memory_says_how_much_and_what_fits() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 1)))
    result = refused(inv, app(demand("m", LLAMA_8B, context=8192, concurrency=32)))
    (miss,) = [r for r in result.rejections if r.constraint == "memory" and r.engine == "vllm"]
    assert miss.shortage > 0
    assert "of 21.6" in miss.reason
    assert any(fix.change[0][0] == "models.m.context" for fix in result.fixes)
    assert any(fix.change[0][0] == "models.m.concurrency" for fix in result.fixes)


def test_a_latency_that_cannot_be_reached_is_answered_with_one_that_can() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 1)))
    result = refused(
        inv, app(demand("m", LLAMA_8B, context=1024, concurrency=1, max_token_s=0.001))
    )
    (fix,) = [f for f in result.fixes if f.change[0][0].endswith("max_token_ms")]
    assert fix.change[0][1] > 1


def test_the_conflict_is_minimal() -> None:
    inv = inventory(
        node("a", devices("a", "NVIDIA_L4_24G", 2)), node("b", devices("b", "NVIDIA_H100_80G", 1))
    )
    pinned = {"pin_nodes": frozenset({NodeId("a")}), "context": 1024, "concurrency": 1}
    asked = app(
        demand("x", LLAMA_8B, 1, **pinned),
        demand("y", LLAMA_8B, 2, **pinned),
        demand("elsewhere", LLAMA_8B, pin_nodes=frozenset({NodeId("b")})),
    )
    result = refused(inv, asked)
    assert set(result.conflict) == {"x", "y"}
    for name in result.conflict:
        rest = replace(asked, demands=tuple(d for d in asked.demands if d.id != name))
        assert isinstance(solve(Problem(inventory=inv, app=rest)), Plan)


def test_two_hopeless_models_get_one_fix_that_mends_both() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 1)))
    asked = app(demand("x", LLAMA_70B), demand("y", LLAMA_70B))
    result = refused(inv, asked)
    assert len(result.fixes) == 1
    assert len(result.fixes[0].change) == 2


def test_a_throughput_out_of_reach_is_named() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 2)))
    result = refused(
        inv, app(demand("m", LLAMA_8B, 2, context=1024, concurrency=1, min_tokens_per_s=1e6))
    )
    assert result.rejections[0].constraint == "throughput"


def test_context_beyond_the_window_is_answered_with_the_window() -> None:
    result = refused(datacentre(), app(demand("m", LLAMA_8B, context=10_000)))
    assert {r.constraint for r in result.rejections} >= {"window"}
    assert (("models.m.context", 8192),) in [fix.change for fix in result.fixes]


# -- shortages, hardware that would help, and size ------------------------------------------------------------------


def helped(inv: Inventory, asked: App, result: Infeasible) -> None:
    """Each addition is typed as a user would, and is enough."""
    for addition in result.additions:
        change = parse_what_if(addition.what_if)
        assert not isinstance(change, KeyChange)
        assert str(change) == addition.what_if
        wider = changed(inv, (change,))
        assert isinstance(solve(Problem(inventory=wider, app=asked)), Plan), addition


def test_a_shortage_is_said_in_devices_and_as_many_are_offered() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 2)))
    asked = app(*(demand(f"m{k}", LLAMA_8B, context=1024, concurrency=1) for k in range(5)))
    result = refused(inv, asked)
    assert len(result.conflict) == 3
    (short,) = [r for r in result.rejections if "short of" in r.reason]
    assert "together are short of 1 NVIDIA_L4_24G" in short.reason
    assert short.shortage == pytest.approx(1, abs=1e-3)
    assert "+3 NVIDIA_L4_24G@a" in [a.what_if for a in result.additions]
    helped(inv, asked, result)


def test_groups_count_whole_islands() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_H100_80G", 4)))
    asked = app(demand("m", LLAMA_70B, 2, context=8192, concurrency=16, dtype="bf16"))
    result = refused(inv, asked)
    assert result.additions
    helped(inv, asked, result)


def test_watts_are_short_in_words_and_the_budget_is_raised_to_what_is_drawn() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 1)), node("b", cpu("b", 4, 40)))
    one = {"context": 1024, "concurrency": 1}
    asked = app(
        demand("m0", LLAMA_8B, pin_nodes=frozenset({NodeId("a")}), **one),
        demand("m1", SMOLLM2, pin_nodes=frozenset({NodeId("b")}), **one),
        budgets=Budgets(cluster_w=75),
    )
    result = refused(inv, asked)
    assert any(
        "short of" in r.reason and "W for the cluster" in r.reason for r in result.rejections
    )
    (raised,) = [f for f in result.fixes if f.paths[0][0] == "budgets"]
    assert raised.paths == (("budgets", "power_watts", "cluster"),)
    watts = raised.change[0][1]
    assert watts > 75
    (drawn,) = {
        math.ceil(sum(slot.predicted.power_w for slot in plan.slots))
        for plan in [solve(Problem(inventory=inv, app=with_change(asked, raised)))]
    }
    assert drawn <= watts


def test_a_quota_is_raised_to_what_is_used() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 4)))
    asked = app(
        demand("m", LLAMA_8B, 3, context=1024, concurrency=1, tenant="t"),
        tenants=(Tenant(name="t", max_devices=(("NVIDIA_L4_24G", 1),)),),
    )
    result = refused(inv, asked)
    assert (("tenants.t.max_devices.NVIDIA_L4_24G", 3),) in [f.change for f in result.fixes]


def test_paths_keep_a_name_with_dots_whole() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 1)))
    asked = app(demand("llama-3.1", LLAMA_8B, 2, context=1024, concurrency=1))
    result = refused(inv, asked)
    assert ("models", "llama-3.1", "replicas") in [f.paths[0] for f in result.fixes]
    assert all(len(f.paths) == len(f.change) for f in result.fixes)


def test_a_model_that_nothing_holds_is_offered_published_hardware() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_T4_16G", 1)))
    asked = app(demand("m", LLAMA_70B, dtype="bf16"))
    result = refused(inv, asked)
    assert result.additions
    assert any("@new" in a.what_if for a in result.additions)
    helped(inv, asked, result)


def test_models_that_fit_are_left_alone_by_a_fix_for_others() -> None:
    inv = inventory(
        node("a", devices("a", "NVIDIA_L4_24G", 1)), node("b", devices("b", "NVIDIA_T4_16G", 1))
    )
    huge = {"dtype": "bf16", "pin_nodes": frozenset({NodeId("a")})}
    asked = app(
        demand("x", LLAMA_70B, **huge),
        demand("y", LLAMA_70B, **huge),
        demand("fine", SMOLLM2, pin_nodes=frozenset({NodeId("b")})),
    )
    result = refused(inv, asked)
    (fix,) = result.fixes
    assert {path[1] for path in fix.paths} == {"x", "y"}


def test_the_least_important_copies_are_given_up() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 2)))
    small = {"context": 1024, "concurrency": 1, "dtype": "bf16"}
    asked = app(
        *(demand(f"low{k}", LLAMA_8B, **small) for k in range(3)),
        demand("high", LLAMA_8B, priority=5, **small),
        demand("top", LLAMA_8B, priority=9, **small),
    )
    result = refused(inv, asked)
    (fix,) = result.fixes
    assert {path[1] for path in fix.paths} == {"low0", "low1", "low2"}


def test_many_contended_models_are_answered_with_few_tries() -> None:
    """Thirty models for the devices of twenty: prices leave out what cannot help, so the tries stay countable."""
    inv = inventory(*(node(f"n{k}", devices(f"n{k}", "NVIDIA_L4_24G", 4)) for k in range(5)))
    asked = app(
        *(
            demand(f"m{k}", LLAMA_8B, context=1024, concurrency=1, dtype="bf16", priority=k % 3)
            for k in range(30)
        )
    )
    polls = 0

    def count() -> bool:
        nonlocal polls
        polls += 1
        return False

    result = solve(Problem(inventory=inv, app=asked), count)
    assert isinstance(result, Infeasible)
    assert len(result.conflict) == 21
    (fix,) = result.fixes
    assert len(fix.change) == 10
    assert {path[1] for path in fix.paths} == {f"m{k}" for k in range(0, 30, 3)}
    assert [a.what_if for a in result.additions] == ["+2 node new: 8 NVIDIA_L4_24G"]
    assert isinstance(solve(Problem(inventory=inv, app=with_change(asked, fix))), Plan)
    helped(inv, asked, result)
    assert polls < 20_000


def test_of_very_many_copies_as_many_are_kept_as_there_is_room_for() -> None:
    inv = inventory(*(node(f"n{k:03}", devices(f"n{k:03}", "NVIDIA_L4_24G", 7)) for k in range(15)))
    asked = app(demand("m", LLAMA_8B, 150, context=1024, concurrency=1))
    result = refused(inv, asked)
    assert (("models.m.replicas", 105),) in [fix.change for fix in result.fixes]


def test_more_hardware_than_anybody_would_add_is_not_offered() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 7)))
    result = refused(inv, app(demand("m", LLAMA_8B, 10_000, context=1024, concurrency=1)))
    assert (("models.m.replicas", 7),) in [fix.change for fix in result.fixes]
    assert result.additions == ()


def test_a_budget_is_raised_by_less_than_a_plan_without_it_draws() -> None:
    inv = inventory(*(node(f"n{k}", devices(f"n{k}", "NVIDIA_H100_80G", 4)) for k in range(2)))
    asked = app(
        *(demand(f"m{k}", LLAMA_8B, context=1024, concurrency=8) for k in range(3)),
        policy="throughput",
    )
    free = solve(Problem(inventory=inv, app=asked))
    assert isinstance(free, Plan)
    drawn = sum(slot.predicted.power_w for slot in free.slots)
    tight = replace(asked, budgets=Budgets(cluster_w=100))
    (raised,) = [f for f in refused(inv, tight).fixes if f.paths[0][0] == "budgets"]
    assert 100 < raised.change[0][1] < drawn


def test_a_model_that_may_not_be_compiled_is_allowed_to_be() -> None:
    inv = inventory(node("a", devices("a", "RBLN_ATOM", 4)))
    asked = app(demand("m", LLAMA_8B, context=1024, concurrency=1, build="never"))
    result = refused(inv, asked)
    assert (("models", "m", "artifacts", "build"),) in [fix.paths for fix in result.fixes]


def test_stopped_at_once_it_still_names_the_conflict() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 1)))
    asked = app(demand("m", LLAMA_8B, 2, context=1024, concurrency=1))
    result = solve(Problem(inventory=inv, app=asked), lambda: True)
    assert isinstance(result, Infeasible)
    assert result.conflict == ("m",)
    assert result.fixes == result.additions == ()


@pytest.mark.parametrize(
    ("complete", "says"), [(True, "not for whole ones"), (False, "is not proven")]
)
def test_where_nothing_is_short_that_is_said_first(complete: bool, says: str) -> None:
    """A search that found no plan, without any row to show for it."""
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 2)))
    asked = app(*(demand(f"m{k}", LLAMA_8B, context=1024, concurrency=1) for k in range(2)))
    problem = Problem(inventory=inv, app=asked)
    table = attempt(problem, lambda: False).table
    failed = Attempt(plan=None, rejections=(), complete=complete, table=table)
    result = explain_infeasible(problem, failed, lambda: False)
    assert says in result.rejections[0].reason
