"""Infeasible is a value: it names a conflict, gives figures, and offers changes that were tried."""

from __future__ import annotations

from dataclasses import replace

from support.labs import (
    LLAMA_8B,
    LLAMA_70B,
    SMOLLM2,
    app,
    datacentre,
    demand,
    devices,
    inventory,
    node,
    with_change,
)

from placement import Infeasible, Plan, Problem, solve
from placement.demand import App, Budgets, Tenant
from placement.ids import NodeId
from placement.inventory import Inventory


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
