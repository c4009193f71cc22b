"""What leaves the solver: JSON, the plan document, explanations."""

from __future__ import annotations

import json

import pytest
from support.labs import LLAMA_70B, SMOLLM2, app, datacentre, demand, mixed_lab

from placement import Infeasible, Plan, Problem, diff, explain, solve
from placement.codec import decode, document, encode, plan_document
from placement.demand import App
from placement.errors import SpecError
from placement.inventory import Inventory

PLAN_KEYS = {
    "feasible",
    "generation",
    "policy",
    "seed",
    "value",
    "bound",
    "dual_bound",
    "gap",
    "proven",
    "proof",
    "cpu_s",
    "slots",
    "unplaced",
    "rejections",
    "prices",
    "conflict",
    "fixes",
    "additions",
}


def good() -> Plan:
    problem = Problem(
        inventory=mixed_lab(),
        app=app(demand("smollm2", SMOLLM2, (2, 6), source="package://x", spread="node")),
    )
    result = solve(problem)
    assert isinstance(result, Plan)
    return result


def bad() -> Infeasible:
    result = solve(Problem(inventory=mixed_lab(), app=app(demand("m", LLAMA_70B, 9))))
    assert isinstance(result, Infeasible)
    return result


def test_one_document_for_plan_and_infeasibility() -> None:
    for result in (good(), bad()):
        found = json.loads(json.dumps(plan_document(result, 0.01)))
        assert set(found) == PLAN_KEYS
        assert found["feasible"] == isinstance(result, Plan)
    slot = plan_document(good(), 0.01)["slots"][0]
    assert {"slot", "model", "engine", "dtype", "tp", "pp", "stages", "predicted", "why"} <= set(
        slot
    )
    assert {"layers", "node", "devices"} <= set(slot["stages"][0])
    assert {
        "ttft_ms",
        "token_ms",
        "tokens_per_s",
        "watts",
        "price_per_hour",
        "memory_gib_per_device",
    } <= set(slot["predicted"])
    assert {"class", "tp", "loss"} <= set(slot["why"]["runner_up"])
    refused = plan_document(bad(), 0.01)
    assert refused["conflict"] == ["m"]
    assert {"change", "says", "set"} == set(refused["fixes"][0])
    assert {"model", "class", "tp", "constraint", "reason", "shortage"} <= set(
        refused["rejections"][0]
    )


def test_unknown_keys_and_wrong_types_are_refused_with_their_place() -> None:
    whole = document(datacentre())
    whole["nodes"][0]["devices"][0]["colour"] = "red"
    with pytest.raises(SpecError, match=r"nodes\.0\.devices\.0\.colour"):
        decode(Inventory, json.dumps(whole))
    asked = document(app(demand("m", SMOLLM2)))
    asked["demands"][0]["context"] = "many"
    with pytest.raises(SpecError, match=r"demands\.0\.context"):
        decode(App, json.dumps(asked))
    with pytest.raises(SpecError):
        decode(Plan, "{")


def test_a_plan_survives_json() -> None:
    assert decode(Plan, encode(good())) == good()


def test_explanations_name_choice_runner_up_and_losses() -> None:
    plan = good()
    reasons = explain(plan)
    assert reasons.feasible
    assert len(reasons.slots) == len(plan.slots) == 4
    said = "\n".join(reasons.sentences)
    for slot in plan.slots:
        assert slot.id in said
        assert slot.why.runner_up is not None
        assert slot.why.runner_up.loss >= 0
    assert "spread" in said
    assert "smollm2/r4 found no place" in said
    assert "heads do not divide" in said


def test_a_model_whose_name_holds_an_r_is_explained() -> None:
    asked = app(demand("org/rho-1", SMOLLM2, spread="node"))
    plan = solve(Problem(inventory=mixed_lab(), app=asked))
    for subject in ("org/rho-1", "org/rho-1/r0"):
        assert {loss.model for loss in explain(plan, subject).losses} == {"org/rho-1"}


def test_explanations_of_one_slot_leave_the_others_out() -> None:
    reasons = explain(good(), "smollm2/r1")
    assert [s.id for s in reasons.slots] == ["smollm2/r1"]


def test_infeasibility_explains_itself() -> None:
    result = bad()
    said = explain(result).sentences
    assert said[0] == "No plan: m cannot be placed"
    assert any(s.startswith("This would help") for s in said)
    assert {r.model for r in explain(result, "m").losses} == {"m"}
    assert explain(result, "other").losses == ()


def test_a_first_plan_starts_everything() -> None:
    assert {c.kind for c in diff(None, good())} == {"start"}
    assert {c.kind for c in diff(good(), good())} == {"keep"}
