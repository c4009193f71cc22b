"""Numbers that are larger than what anybody has: the solver answers, and soon."""

from __future__ import annotations

import pytest
from support.labs import LLAMA_8B, SMOLLM2, app, demand, devices, inventory, node, with_change

from placement import Infeasible, Plan, Problem, explain, solve
from placement.demand import Budgets
from placement.inventory import Inventory

ABSURD = 10_000


def gpus(nodes: int) -> Inventory:
    return inventory(
        *(node(f"n{k:02}", devices(f"n{k:02}", "NVIDIA_H100_80G", 8)) for k in range(nodes))
    )


def small(replicas: int | tuple[int, int]):
    return app(demand("m", LLAMA_8B, replicas, dtype="bf16"))


def test_more_copies_than_python_has_stack_are_placed() -> None:
    plan = solve(Problem(inventory=gpus(40), app=small(320)))
    assert isinstance(plan, Plan)
    assert plan.proven
    assert len({device for slot in plan.slots for device in slot.devices}) == 320


def test_a_generous_maximum_costs_nothing() -> None:
    modest = solve(Problem(inventory=gpus(1), app=small((0, 8))))
    generous = solve(Problem(inventory=gpus(1), app=small((0, ABSURD))))
    assert isinstance(modest, Plan)
    assert isinstance(generous, Plan)
    assert generous.proven
    assert generous.value == modest.value
    assert len(generous.unplaced) == ABSURD - 8
    assert not {slot.id for slot in generous.slots} & set(generous.unplaced)
    assert len([s for s in explain(generous).sentences if "found no place" in s]) == 1


def test_too_many_copies_are_refused_with_the_number_that_has_room() -> None:
    inv = inventory(
        node("a", devices("a", "NVIDIA_H100_80G", 8)), node("b", devices("b", "NVIDIA_A100_80G", 4))
    )
    refused = solve(Problem(inventory=inv, app=small(ABSURD)))
    assert isinstance(refused, Infeasible)
    assert refused.rejections[0].reason == "10000 copies must run, there is room for 12 at most"
    (fix,) = [f for f in refused.fixes if "replicas" in f.says]
    milder = solve(Problem(inventory=inv, app=with_change(small(ABSURD), fix)))
    assert isinstance(milder, Plan)
    assert milder.slots


def test_a_search_that_is_stopped_at_once_claims_no_more_than_it_has() -> None:
    problem = Problem(inventory=gpus(1), app=small((0, 2)))
    plan, whole = solve(problem, should_stop=lambda: True), solve(problem)
    assert isinstance(plan, Plan)
    assert isinstance(whole, Plan)
    assert plan.bound >= whole.value - 1e-9
    assert not plan.proven or plan.value == pytest.approx(whole.value)


def test_optional_copies_go_where_a_watt_is_worth_most() -> None:
    """One row binds, so that the best plan is within about one copy of the relaxation: 294 copies, 0.25 % below it."""
    inv = inventory(*(node(f"n{k:02}", devices(f"n{k:02}", "NVIDIA_L4_24G", 8)) for k in range(60)))
    asked = app(
        *(
            demand(f"m{k}", facts, (1, 30), engines=frozenset({"vllm"}))
            for k, facts in enumerate((SMOLLM2, LLAMA_8B) * 15)
        ),
        budgets=Budgets(cluster_w=20_000.0),
    )
    plan = solve(Problem(inventory=inv, app=asked))
    assert isinstance(plan, Plan)
    assert plan.gap <= 0.005
