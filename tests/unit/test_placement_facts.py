"""Facts of the problem reach the plan: measurements, compiled buckets and dtypes, remote endpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from support.labs import LLAMA_8B, app, demand, devices, inventory, node

from orchestrator.inventory_file import load_inventory
from orchestrator.spec import load_app
from placement.calibration import Calibration
from placement.inventory import Artifact, Inventory
from placement.plan import Infeasible, Plan
from placement.problem import Problem
from placement.solve import solve
from placement.verify import verify

EXAMPLE = Path(__file__).parents[2] / "examples" / "remote-endpoint"
RNGD = "FURIOSA_RNGD"
SLOW = Calibration(
    device_class="NVIDIA_H100_80G",
    engine="vllm",
    model="m",
    facts=LLAMA_8B,
    dtype="bf16",
    prompt_tokens=512,
    context=600,
    sequences=8,
    prefill_tokens_per_s=500.0,
    token_s_fixed=0.5,
    token_s_per_sequence=0.1,
    uncertainty=0.07,
)


def npus(*held: Artifact) -> Inventory:
    return inventory(node("a", devices("a", RNGD, 4), artifacts=held))


def planned(there: Inventory, *asked) -> Plan:
    problem = Problem(inventory=there, app=app(*asked))
    plan = solve(problem)
    assert isinstance(plan, Plan), plan.rejections
    assert verify(problem, plan) == ()
    return plan


def test_a_measurement_beats_the_data_sheet() -> None:
    there = inventory(
        node("a", devices("a", "NVIDIA_H100_80G")), node("b", devices("b", "NVIDIA_A100_80G"))
    )
    asked = demand("m", LLAMA_8B, context=1024, engines=frozenset({"vllm"}))
    assert planned(there, asked).slots[0].device_class == "NVIDIA_H100_80G"
    (slot,) = planned(replace(there, calibrations=(SLOW,)), asked).slots
    assert slot.device_class == "NVIDIA_A100_80G"
    alone = replace(there, nodes=there.nodes[:1], calibrations=(SLOW,))
    (slot,) = planned(alone, asked).slots
    assert slot.predicted.token_s > 0.5
    assert slot.predicted.uncertainty == 0.07


def test_emulated_devices_are_never_calibrated() -> None:
    there = inventory(node("a", devices("a", "NVIDIA_H100_80G", emulated=True)))
    asked = demand("m", LLAMA_8B, context=1024)
    assert planned(replace(there, calibrations=(SLOW,)), asked).slots == planned(there, asked).slots


def test_a_compiled_bucket_settles_dtype_and_pace() -> None:
    held = Artifact(model="m", device_class=RNGD, tp=1, batch=64, length=4096, dtype="fp8")
    asked = demand("m", LLAMA_8B, context=2048, concurrency=4)
    (slot,) = planned(npus(held), asked).slots
    assert (slot.dtype, slot.tp) == ("fp8", 1)
    (exact,) = planned(npus(replace(held, batch=4)), asked).slots
    assert exact.predicted.token_s < slot.predicted.token_s


def test_what_exceeds_every_bucket_is_infeasible_and_says_so() -> None:
    held = Artifact(model="m", device_class=RNGD, tp=1, batch=4, dtype="fp8")
    problem = Problem(
        inventory=npus(held), app=app(demand("m", LLAMA_8B, context=2048, concurrency=8))
    )
    result = solve(problem)
    assert isinstance(result, Infeasible)
    assert any(r.constraint == "bucket" and r.shortage == 4 for r in result.rejections)


def test_models_that_ask_unlike_are_not_judged_alike() -> None:
    held = [
        Artifact(model=name, device_class=RNGD, tp=1, batch=4, dtype="fp8") for name in ("m", "n")
    ]
    problem = Problem(
        inventory=npus(*held),
        app=app(
            demand("m", LLAMA_8B, (0, 1), context=2048, concurrency=4),
            demand("n", LLAMA_8B, (0, 1), context=2048, concurrency=8),
        ),
    )
    plan = solve(problem)
    assert isinstance(plan, Plan)
    assert [s.model for s in plan.slots] == ["m"]


def test_what_does_not_fit_here_runs_on_the_endpoint() -> None:
    problem = Problem(
        inventory=load_inventory(EXAMPLE / "inventory.yaml"), app=load_app(EXAMPLE / "app.yaml")
    )
    plan = solve(problem)
    assert isinstance(plan, Plan)
    places = {s.id: (s.engine, s.nodes[0]) for s in plan.slots}
    assert places["small/r0"] == ("vllm", "gpu-1")
    assert {places[name] for name in ("large/r0", "hosted/r0", "hosted/r1")} == {
        ("remote", "outside")
    }
    assert all(
        s.predicted.power_w == 0 and s.kv_bytes == 0 for s in plan.slots if s.engine == "remote"
    )


def test_an_endpoint_takes_no_more_sequences_than_it_has() -> None:
    problem = Problem(
        inventory=load_inventory(EXAMPLE / "inventory.yaml"), app=load_app(EXAMPLE / "app.yaml")
    )
    hosted = replace(problem.app.demands[2], replicas_min=0, replicas_max=9)
    more = replace(problem.app, demands=(*problem.app.demands[:2], hosted))
    plan = solve(replace(problem, app=more))
    assert isinstance(plan, Plan)
    assert sum(s.stages[0].shares for s in plan.slots if s.engine == "remote") == 64
