"""Fronts of pipelines sampled from the cost model: which models have one, and that its points are what they say."""

from __future__ import annotations

from support.labs import LLAMA_8B, LLAMA_70B, app, demand, devices, inventory, node

from placement import Infeasible, Plan, Problem, explain, solve
from placement.demand import App
from placement.fronts import MOST_MODELS, fronts
from placement.ids import ModelId
from placement.inventory import Inventory

BIG = ModelId("big")


def small_devices() -> Inventory:
    """Devices of two classes, none of which holds 70e9 parameters."""
    return inventory(
        *(node(f"l{k}", devices(f"l{k}", "NVIDIA_L4_24G", 4)) for k in range(3)),
        *(node(f"t{k}", devices(f"t{k}", "NVIDIA_T4_16G", 4)) for k in range(4)),
    )


def big(policy: str = "throughput") -> App:
    return app(
        demand(BIG, LLAMA_70B, dtype="fp16", context=1024),
        demand("small", LLAMA_8B, (0, 1), context=1024),
        policy=policy,
    )


def test_a_model_in_stages_is_shown_at_several_depths_with_one_chosen() -> None:
    problem = Problem(inventory=small_devices(), app=big())
    plan = solve(problem)
    assert isinstance(plan, Plan)
    assert [s.pp > 1 for s in plan.slots if s.model == BIG] == [True]
    found = fronts(problem, plan)
    points = found[BIG]
    assert len({p.stages for p in points}) > 1
    assert [p.stages for p in points] == sorted(p.stages for p in points)
    assert sum(p.chosen for p in points) == 1
    assert all(p.decode_tokens_per_s > 0 for p in points)
    assert all(p.token_s > 0 and p.ttft_s > 0 for p in points)
    assert fronts(problem, plan, BIG) == {BIG: points}


def test_latency_chooses_no_slower_token_than_throughput() -> None:
    chosen = {}
    for policy in ("latency", "throughput"):
        problem = Problem(inventory=small_devices(), app=big(policy))
        (chosen[policy],) = [p for p in fronts(problem, solve(problem))[BIG] if p.chosen]
    fast, wide = chosen["latency"], chosen["throughput"]
    assert fast.token_s <= wide.token_s
    assert fast.decode_tokens_per_s <= wide.decode_tokens_per_s


def test_a_model_on_one_device_has_no_front() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_H100_80G", 2)))
    problem = Problem(inventory=inv, app=app(demand("m", LLAMA_8B, context=1024)))
    assert fronts(problem, solve(problem)) == {}


def test_a_model_that_found_no_place_but_would_fit_on_one_device_has_no_front() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_H100_80G", 1)))
    problem = Problem(inventory=inv, app=app(demand("m", LLAMA_8B, (0, 1), context=1024)))
    plan = solve(Problem(inventory=inv, app=app()))
    assert isinstance(plan, Plan)
    assert fronts(problem, plan) == {}


def test_without_a_plan_depths_are_shown_for_what_no_device_can_hold() -> None:
    asked = app(demand(BIG, LLAMA_70B, 40, dtype="fp16", context=1024))
    problem = Problem(inventory=small_devices(), app=asked)
    refused = solve(problem)
    assert isinstance(refused, Infeasible)
    found = fronts(problem, refused)
    assert len(found[BIG]) > 1
    said = explain(refused, BIG, fronts=found).sentences
    assert any("Pipelines of big by depth" in sentence for sentence in said)


def test_of_many_models_the_first_few_are_shown_and_each_when_asked_for() -> None:
    names = [f"big{k}" for k in range(MOST_MODELS + 1)]
    asked = app(*(demand(name, LLAMA_70B, 40, dtype="fp16", context=1024) for name in names))
    problem = Problem(inventory=small_devices(), app=asked)
    refused = solve(problem)
    assert list(fronts(problem, refused)) == names[:-1]
    assert list(fronts(problem, refused, ModelId(names[-1]))) == names[-1:]
