"""A plan proves itself: what it claims is derived anew, and whatever was tampered with is refused."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.claims import printed, put, read_back
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
)

from orchestrator.inventory_file import load_inventory
from orchestrator.spec import load_app
from placement import Plan, Problem, solve
from placement.calibration import Calibration
from placement.demand import Budgets, Tenant
from placement.devices import Dtype, Health
from placement.errors import SpecError
from placement.ids import NodeId
from placement.inventory import Artifact
from placement.proof import audit, prove, proven_bound
from placement.proof_document import disagreement, plan_of, read_document
from placement.proof_rows import instance_of, priced

ENDPOINT = Path(__file__).parents[2] / "examples" / "remote-endpoint"
MIXED = Problem(
    inventory=mixed_lab(),
    app=app(demand("smollm2", SMOLLM2, (2, 6), source="package://x", spread="node")),
)
PAIR = Problem(
    inventory=datacentre(),
    app=app(
        demand("llama70", LLAMA_70B, 2, dtype="bf16", priority=10, tenant="research"),
        demand("smollm2", SMOLLM2, 2, source="package://x"),
        tenants=(Tenant(name="research", max_devices=(("NVIDIA_H100_80G", 8),)),),
        budgets=Budgets(cluster_w=20000, rack_w=8000, node_w=3000),
    ),
)
CONTENDED = Problem(
    inventory=inventory(
        node("a", devices("a", "NVIDIA_A100_80G", 4)),
        node("b", devices("b", "NVIDIA_L4_24G", 4), rack="r2"),
        node("c", devices("c", "NVIDIA_L4_24G", 4), rack="r2"),
    ),
    app=app(
        demand("m1", LLAMA_8B, (1, 3), priority=1),
        demand("m2", LLAMA_8B, (1, 3), concurrency=16, spread="node"),
        demand("m3", LLAMA_8B, 2, concurrency=4),
        budgets=Budgets(cluster_w=1500),
    ),
)
SHARED = Problem(
    inventory=inventory(node("a", cpu("a", 8, 64)), node("b", cpu("b", 6, 32), rack="r2")),
    app=app(
        demand("x", SMOLLM2, (1, 4), source="package://x", engines=frozenset({"openvino"})),
        demand("y", SMOLLM2, 2, source="package://x", concurrency=2, spread="rack"),
    ),
)
PROBLEMS = {"mixed": MIXED, "pair": PAIR, "contended": CONTENDED, "shared": SHARED}


@cache
def honest(name: str) -> Plan:
    plan = solve(PROBLEMS[name])
    assert isinstance(plan, Plan)
    return plan


def document(name: str) -> dict[str, Any]:
    return printed(honest(name))


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_honest_plan_survives_the_document_and_holds(name: str) -> None:
    plan = honest(name)
    found = printed(plan)
    assert plan_of(found) == plan
    assert disagreement(found, plan) == ""
    report = audit(PROBLEMS[name], plan_of(found))
    assert report.faults == ()
    assert report.value == pytest.approx(plan.value)
    assert report.bound == pytest.approx(plan.bound)
    assert report.gap == pytest.approx(plan.gap)


def first_slot(key: str, new: Any) -> Any:
    return lambda d: d["slots"][0].__setitem__(key, new)


def predicted(key: str, factor: float) -> Any:
    def change(d: dict[str, Any]) -> None:
        d["slots"][0]["predicted"][key] *= factor

    return change


def scaled(key: str, factor: float) -> Any:
    return lambda d: d.__setitem__(key, d[key] * factor + 0.01)


def first_price(new: Any) -> Any:
    def change(d: dict[str, Any]) -> None:
        d["prices"] = {**d["prices"], next(iter(d["prices"]), "devices:NVIDIA_H100_80G"): new}

    return change


def flipped_proven(d: dict[str, Any]) -> None:
    d["proven"] = not d["proven"]


def another_proof(d: dict[str, Any]) -> None:
    d["proof"] = "none" if d["proof"] != "none" else "search"


def consistently_worth_more(d: dict[str, Any]) -> None:
    for key in ("value", "bound", "dual_bound"):
        d[key] *= 1.1


def bound_at_value(d: dict[str, Any]) -> None:
    d.update(dual_bound=d["value"], bound=d["value"] * 1.01, proven=False, proof="none")
    d["gap"] = (d["bound"] - d["value"]) / d["bound"]


def without_a_slot(d: dict[str, Any]) -> None:
    d["slots"].pop()


def twice_a_slot(d: dict[str, Any]) -> None:
    d["slots"].append(d["slots"][0])


def one_more_slot(d: dict[str, Any]) -> None:
    d["slots"].append({**d["slots"][0], "slot": d["slots"][0]["model"] + "/r77"})


def swapped_devices(d: dict[str, Any]) -> None:
    d["slots"][0]["stages"][0]["devices"] = ["nowhere/0"] * d["slots"][0]["tp"]


def shorter_layers(d: dict[str, Any]) -> None:
    d["slots"][0]["stages"][0]["layers"][1] -= 1


TAMPERED: dict[str, Any] = {
    "generation": lambda d: d.__setitem__("generation", 99),
    "policy": lambda d: d.__setitem__("policy", "cost"),
    "value": scaled("value", 1.01),
    "bound": scaled("bound", 1.01),
    "lower bound": scaled("bound", 0.9),
    "dual bound": scaled("dual_bound", 1.01),
    "lower dual bound": scaled("dual_bound", 0.9),
    "gap": lambda d: d.__setitem__("gap", d["gap"] + 0.01),
    "proven": flipped_proven,
    "proof": another_proof,
    "value and bounds together": consistently_worth_more,
    "a lower dual bound with its own gap": bound_at_value,
    "infeasible": lambda d: d.__setitem__("feasible", False),
    "a slot less": without_a_slot,
    "a slot twice": twice_a_slot,
    "a slot more": one_more_slot,
    "no slots": lambda d: d.__setitem__("slots", []),
    "unplaced": lambda d: d["unplaced"].append(d["slots"][0]["model"] + "/r50"),
    "devices": swapped_devices,
    "layers": shorter_layers,
    "node": lambda d: d["slots"][0]["stages"][0].__setitem__("node", "nowhere"),
    "shares": lambda d: d["slots"][0]["stages"][0].__setitem__("shares", 3),
    "no shares": lambda d: d["slots"][0]["stages"][0].__setitem__("shares", 0),
    "name": first_slot("slot", "other/r0"),
    "model": first_slot("model", "other"),
    "engine": first_slot("engine", "torch"),
    "class": first_slot("class", "NVIDIA_H200_141G"),
    "dtype": first_slot("dtype", "fp32"),
    "tp": first_slot("tp", 3),
    "no tp": first_slot("tp", 0),
    "pp": first_slot("pp", 7),
    "emulated": lambda d: d["slots"][0].__setitem__("emulated", not d["slots"][0]["emulated"]),
    "KV cache": first_slot("kv_bytes", 1),
    "an unknown price": lambda d: d["prices"].__setitem__("devices:NOTHING", 1.0),
    "a negative price": first_price(-1.0),
    "a price": first_price(123.0),
    "no prices": lambda d: d.__setitem__("prices", {"spread:nobody": 0.0}),
    **{
        f"predicted {key}": predicted(key, 1.01)
        for key in (
            "ttft_ms",
            "token_ms",
            "tokens_per_s",
            "prefill_tokens_per_s",
            "watts",
            "memory_gib_per_device",
            "ttft_s",
            "token_s",
            "token_s_fixed",
            "uncertainty",
        )
    },
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("tampering", TAMPERED)
def test_tampering_is_refused(name: str, tampering: str) -> None:
    changed = document(name)
    before = deepcopy(changed)
    TAMPERED[tampering](changed)
    assert changed != before
    try:
        report = read_back(PROBLEMS[name], changed)
    except SpecError:
        assert tampering == "infeasible"
        return
    assert report.faults, tampering


def test_a_move_to_an_equal_device_is_harmless_and_holds() -> None:
    plan = honest("contended")
    slot = next(s for s in plan.slots if s.device_class == "NVIDIA_L4_24G" and s.tp == 1)
    stage = slot.stages[0]
    free = {f"{stage.node}/{k}" for k in range(4)} - {d for s in plan.slots for d in s.devices}
    if free:
        moved = replace(slot, stages=(replace(stage, devices=(min(free),)),))
        slots = tuple(moved if s is slot else s for s in plan.slots)
        assert audit(CONTENDED, replace(plan, slots=slots)).faults == ()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_plan_for_another_problem_is_refused(name: str) -> None:
    problem, plan = PROBLEMS[name], honest(name)
    first = problem.app.demands[0]
    there = problem.inventory
    other_demands = (
        replace(first, replicas_max=first.replicas_max + 1),
        replace(first, priority=first.priority + 1),
        replace(first, context=first.context * 2),
        replace(first, concurrency=first.concurrency + 1),
        replace(first, pin_nodes=frozenset({NodeId("nowhere")})),
        replace(first, banned=frozenset(s.device_class for s in plan.slots)),
        replace(first, max_price_per_hour=1e-6),
    )
    apps = [replace(problem.app, demands=(d, *problem.app.demands[1:])) for d in other_demands]
    apps.append(replace(problem.app, budgets=Budgets(cluster_w=1.0)))
    apps.append(replace(problem.app, policy=replace(problem.app.policy, energy=3.0)))
    used = plan.slots[0].devices[0]
    inventories = [
        replace(there, generation=there.generation + 1),
        inventory(*there.nodes[1:], generation=there.generation),
        replace(
            there,
            nodes=tuple(
                replace(
                    n,
                    devices=tuple(
                        replace(d, health=Health.LOST) if d.id == used else d for d in n.devices
                    ),
                )
                for n in there.nodes
            ),
        ),
    ]
    others = [replace(problem, app=a) for a in apps]
    others += [replace(problem, inventory=i) for i in inventories]
    for other in others:
        assert audit(other, plan).faults


def test_more_hardware_than_the_plan_knew_is_refused_where_it_raises_the_bound() -> None:
    plan = honest("contended")
    wider = replace(
        CONTENDED,
        inventory=inventory(
            *CONTENDED.inventory.nodes, node("z", devices("z", "NVIDIA_A100_80G", 8))
        ),
    )
    assert any("bound" in fault for fault in audit(wider, plan).faults)


def test_a_worse_plan_cannot_claim_a_complete_search() -> None:
    plan = honest("shared")
    assert plan.proven
    first, *_ = (s for s in plan.slots if s.model == "x")
    lost = [s for s in plan.slots if s.model == "x" and s is not first]
    assert lost
    value = plan.value - sum(_worth(SHARED, s) for s in lost)
    worse = replace(
        plan,
        slots=tuple(s for s in plan.slots if s not in lost),
        unplaced=(*plan.unplaced, *(s.id for s in lost)),
        value=value,
        bound=value,
        proof="search",
    )
    faults = audit(SHARED, worse).faults
    assert len(faults) == 1
    assert "claims that nothing is better" in faults[0]


def _worth(problem: Problem, slot: Any) -> float:
    own = instance_of(problem).options[slot.model]
    return next(o.value for o in own if o.predicted == slot.predicted)


def test_a_search_that_runs_out_of_steps_proves_nothing() -> None:
    plan = honest("shared")
    assert prove(SHARED, {}, plan.value).complete
    short = prove(SHARED, {}, plan.value, max_steps=3)
    assert not short.complete
    assert short.better is None
    assert short.steps == 3
    claim = replace(
        plan, prices=(), dual_bound=proven_bound(SHARED, ()), proof="search", bound=plan.value
    )
    assert audit(SHARED, claim).faults == ()
    assert "within 3 steps" in audit(SHARED, claim, max_steps=3).faults[0]


def test_prices_prove_at_any_height_and_good_ones_prove_more() -> None:
    plan = honest("contended")
    instance = instance_of(CONTENDED)
    for factor in (0.0, 0.5, 1.0, 2.0):
        prices = {name: price * factor for name, price in plan.prices}
        assert priced(instance, prices).bound >= plan.value - 1e-9
    assert proven_bound(CONTENDED, plan.prices) <= proven_bound(CONTENDED, ())


def test_any_single_row_priced_alone_still_bounds_the_best_plan() -> None:
    for name, problem in PROBLEMS.items():
        plan, instance = honest(name), instance_of(problem)
        for row in instance.rows:
            for price in (0.001, 0.1, 10.0):
                assert priced(instance, {row: price}).bound >= plan.value - 1e-9, (name, row)


def test_a_minimum_of_throughput_is_a_row_of_its_own() -> None:
    fast = demand("m", LLAMA_8B, (1, 4), min_tokens_per_s=1500.0)
    problem = Problem(inventory=CONTENDED.inventory, app=app(fast))
    instance = instance_of(problem)
    row = instance.rows["throughput:m"]
    assert row.limit == -1500.0
    assert all(row.amount(o) < 0 for o in instance.options[fast.id])
    plan = solve(problem)
    assert isinstance(plan, Plan)
    assert audit(problem, plan).faults == ()
    assert priced(instance, {"throughput:m": 0.01}).bound >= plan.value - 1e-9


def test_artifacts_settle_what_may_run() -> None:
    held = (Artifact(model="m", device_class="FURIOSA_RNGD", tp=4, batch=8, length=4096),)
    there = inventory(node("n", devices("n", "FURIOSA_RNGD", 8), artifacts=held))
    plain = demand("m", LLAMA_8B, context=2048)
    for asked, sizes in (
        (plain, {4}),
        (replace(plain, concurrency=9), set()),
        (replace(plain, context=8192), set()),
    ):
        options = instance_of(Problem(inventory=there, app=app(asked))).options[asked.id]
        assert {o.layout.tp for o in options} == sizes
    bare = inventory(node("n", devices("n", "FURIOSA_RNGD", 8)))
    never = replace(plain, build="never")
    assert instance_of(Problem(inventory=bare, app=app(never))).options[never.id] == ()
    assert instance_of(Problem(inventory=bare, app=app(plain))).options[plain.id]


MEASURED = Calibration(
    device_class="NVIDIA_A100_80G",
    engine="vllm",
    model="m1",
    facts=LLAMA_8B,
    dtype="bf16",
    prompt_tokens=512,
    context=600,
    sequences=8,
    prefill_tokens_per_s=40_000.0,
    token_s_fixed=0.006,
    token_s_per_sequence=0.0001,
    uncertainty=0.07,
)


def test_measurements_count_and_their_loss_is_noticed() -> None:
    measured = replace(CONTENDED.inventory, calibrations=(MEASURED,))
    problem = replace(CONTENDED, inventory=measured)
    plan = solve(problem)
    assert isinstance(plan, Plan)
    assert audit(problem, plan).faults == ()
    assert any("cost model" in fault for fault in audit(CONTENDED, plan).faults)


@pytest.mark.parametrize("dtype", [None, "fp8"])
@pytest.mark.parametrize("batch", [4, 16])
def test_compiled_buckets_count(dtype: Dtype | None, batch: int) -> None:
    held = tuple(
        Artifact(model="m", device_class="FURIOSA_RNGD", tp=tp, batch=batch, dtype=dtype)
        for tp in (2, 4)
    )
    there = inventory(node("n", devices("n", "FURIOSA_RNGD", 8), artifacts=held))
    asked = demand("m", LLAMA_8B, (1, 3), context=2048, concurrency=4, build="never")
    problem = Problem(inventory=there, app=app(asked))
    plan = solve(problem)
    assert isinstance(plan, Plan)
    assert audit(problem, plan).faults == ()
    larger = tuple(replace(a, batch=32) for a in held)
    other = replace(there, nodes=(replace(there.nodes[0], artifacts=larger),))
    assert any("cost model" in f for f in audit(replace(problem, inventory=other), plan).faults)


def test_endpoints_are_options_like_devices() -> None:
    problem = Problem(
        inventory=load_inventory(ENDPOINT / "inventory.yaml"), app=load_app(ENDPOINT / "app.yaml")
    )
    plan = solve(problem)
    assert isinstance(plan, Plan)
    found = printed(plan)
    assert read_back(problem, found).faults == ()
    away = next(k for k, slot in enumerate(found["slots"]) if slot["engine"] == "remote")
    for path, new, says in (
        (("slots", away, "stages", 0, "shares"), 1, "sequences"),
        (("slots", away, "kv_bytes"), 4096, "KV cache"),
        (("slots", away, "predicted", "tokens_per_s"), 1e6, "cost model"),
    ):
        changed = deepcopy(found)
        put(changed, path, new)
        assert any(says in fault for fault in read_back(problem, changed).faults), path
    elsewhere = replace(
        problem,
        inventory=replace(
            problem.inventory,
            classes=tuple(
                replace(c, endpoint=replace(c.endpoint, url="https://other.example/v1"))
                if c.endpoint
                else c
                for c in problem.inventory.classes
            ),
        ),
    )
    assert any("does not offer" in fault for fault in audit(elsewhere, plan).faults)


BROKEN = {
    "": "no JSON",
    "{": "no JSON",
    "[]": "not an object",
    '{"a": NaN}': "NaN",
    '{"a": -Infinity}': "Infinity",
    '{"a": 1e999}': "no sensible number",
    '{"a": ' + "9" * 400 + "}": "no sensible number",
    '{"a": 1, "a": 2}': "given twice",
    "[" * 100_000: "no JSON",
}


@pytest.mark.parametrize(("text", "says"), BROKEN.items(), ids=lambda x: str(x)[:20])
def test_what_is_no_json_object_is_said_so(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        read_document(text)


def test_each_missing_or_wrong_key_is_named() -> None:
    whole = document("pair")
    optional = {"gap", "cpu_s", "conflict", "fixes", "additions"}
    for key in whole:
        fewer = {k: v for k, v in whole.items() if k != key}
        if key in optional:
            assert disagreement(fewer, plan_of(fewer)) or key == "cpu_s"
        else:
            with pytest.raises(SpecError, match=key):
                plan_of(fewer)
    for path, wrong in (
        (("slots",), 3),
        (("slots", 0), 3),
        (("slots", 0, "predicted"), []),
        (("slots", 0, "predicted", "watts"), "many"),
        (("slots", 0, "stages", 0, "layers"), [0]),
        (("slots", 0, "stages", 0, "layers"), [0, 1.5]),
        (("slots", 0, "why"), None),
        (("prices",), []),
        (("generation",), True),
        (("value",), "1"),
        (("proof",), "trust me"),
        (("feasible",), 1),
    ):
        changed = deepcopy(whole)
        put(changed, path, wrong)
        with pytest.raises(SpecError):
            plan_of(changed)


def test_keys_that_a_later_version_adds_are_left_aside() -> None:
    later = {**document("pair"), "explanation": ["because"], "front": [{"stages": 3}]}
    assert read_back(PAIR, json.loads(json.dumps(later))).faults == ()
