"""The verifier refuses every kind of tampering with a plan that holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.labs import LLAMA_8B, LLAMA_70B, SMOLLM2, app, cpu, demand, devices, inventory, node

from placement import Plan, Problem, solve, verify
from placement.demand import Budgets, Tenant
from placement.devices import Health
from placement.ids import DeviceId, NodeId, SlotId
from placement.plan import Slot

LAB = inventory(
    node("a", devices("a", "NVIDIA_H100_80G", 4), cpu("a", 8, 64)),
    node("b", devices("b", "NVIDIA_H100_80G", 4), rack="r2"),
)
ASKED = app(
    demand("big", LLAMA_70B, 1, dtype="bf16", tenant="t"),
    demand("small", SMOLLM2, 2, source="package://x", engines=frozenset({"openvino"})),
)
PROBLEM = Problem(inventory=LAB, app=ASKED)


def plan() -> Plan:
    result = solve(PROBLEM)
    assert isinstance(result, Plan)
    return result


def with_slot(whole: Plan, index: int, **changes: object) -> Plan:
    slots = list(whole.slots)
    slots[index] = replace(slots[index], **changes)
    return replace(whole, slots=tuple(slots))


def stage(slot: Slot, **changes: object) -> Slot:
    return (replace(slot.stages[0], **changes),)


def test_an_honest_plan_holds() -> None:
    assert verify(PROBLEM, plan()) == ()


BIG, CORE = 0, 1

TAMPERED = {
    "generation": lambda p: replace(p, generation=9),
    "planned 2 times": lambda p: replace(p, slots=(*p.slots, p.slots[0])),
    "replicas": lambda p: replace(p, slots=p.slots[:2]),
    "nobody asked": lambda p: with_slot(p, BIG, model="other", id="other/r0"),
    "named": lambda p: with_slot(p, BIG, id=SlotId("small/r9")),
    "layers": lambda p: with_slot(p, BIG, stages=stage(p.slots[BIG], layers=(0, 79))),
    "for tp": lambda p: with_slot(p, BIG, tp=2),
    "does not exist": lambda p: with_slot(
        p, BIG, stages=stage(p.slots[BIG], devices=tuple(DeviceId(f"a/{k}") for k in (7, 8, 9, 10)))
    ),
    "is not on": lambda p: with_slot(p, BIG, stages=stage(p.slots[BIG], node=NodeId("zz"))),
    "emulated": lambda p: with_slot(p, BIG, engine="emulated"),
    "does not drive": lambda p: with_slot(p, BIG, engine="furiosa"),
    "not fp8": lambda p: with_slot(p, BIG, dtype="fp8"),
    "KV cache": lambda p: with_slot(p, BIG, kv_bytes=1),
    "cost model": lambda p: with_slot(
        p, BIG, predicted=replace(p.slots[BIG].predicted, tokens_per_s=1e6)
    ),
    "worth": lambda p: replace(p, value=p.value * 2, bound=p.bound * 2),
    "its bound": lambda p: replace(p, bound=p.value / 2),
    "not proven": lambda p: replace(p, bound=p.value * 2),
    "shares": lambda p: with_slot(p, CORE, stages=stage(p.slots[CORE], shares=99)),
}


@pytest.mark.parametrize("says", TAMPERED)
def test_tampering_is_refused(says: str) -> None:
    violations = verify(PROBLEM, TAMPERED[says](plan()))
    assert violations
    if says not in ("is not on", "not fp8"):
        assert any(says in violation for violation in violations), violations


def world(**changes: object) -> Problem:
    return replace(PROBLEM, **changes)


def test_a_device_is_not_given_out_twice() -> None:
    whole = plan()
    first, second = whole.slots[1], whole.slots[2]
    greedy = replace(
        whole,
        slots=(
            whole.slots[0],
            replace(first, stages=stage(first, shares=8)),
            replace(second, stages=stage(second, shares=8)),
        ),
    )
    assert verify(PROBLEM, greedy)


def test_a_lost_device_breaks_a_plan() -> None:
    whole = plan()
    used = set(whole.slots[0].devices)
    sick = inventory(
        *(
            replace(
                n,
                devices=tuple(
                    replace(d, health=Health.LOST) if d.id in used else d for d in n.devices
                ),
            )
            for n in LAB.nodes
        )
    )
    assert any("lost" in v for v in verify(world(inventory=sick), whole))


@pytest.mark.parametrize(
    ("says", "change"),
    [
        ("cluster", {"budgets": Budgets(cluster_w=100)}),
        ("rack", {"budgets": Budgets(rack_w=100)}),
        ("node", {"budgets": Budgets(node_w=100)}),
        ("of NVIDIA", {"tenants": (Tenant(name="t", max_devices=(("NVIDIA_H100_80G", 2),)),)}),
    ],
)
def test_budgets_and_quotas_are_checked(says: str, change: dict[str, object]) -> None:
    assert any(says in v for v in verify(world(app=replace(ASKED, **change)), plan()))


@pytest.mark.parametrize(
    "change",
    [
        {"max_ttft_s": 1e-6},
        {"max_token_s": 1e-6},
        {"min_tokens_per_s": 1e9},
        {"power_budget_w": 1.0},
        {"max_price_per_hour": 0.01},
        {"banned": frozenset({"NVIDIA_H100_80G"})},
        {"pin_nodes": frozenset({NodeId("zz")})},
        {"engines": frozenset({"torch"})},
        {"dtype": "fp8"},
        {"arithmetic": "exact"},
        {"context": 8193},
        {"replicas_min": 2, "replicas_max": 2},
    ],
)
def test_each_demand_is_checked(change: dict[str, object]) -> None:
    asked = replace(ASKED, demands=(replace(ASKED.demands[0], **change), ASKED.demands[1]))
    assert verify(world(app=asked), plan())


def test_spread_is_checked() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_H100_80G", 2)))
    problem = Problem(inventory=inv, app=app(demand("m", LLAMA_8B, 2)))
    result = solve(problem)
    spread = replace(problem, app=app(demand("m", LLAMA_8B, 2, spread="node")))
    assert any("on node a" in v for v in verify(spread, result))
