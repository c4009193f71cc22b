"""Pipelines over several pools are options of the proof, and what they claim is checked stage by stage."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from support.claims import printed, put, read_back
from support.labs import LLAMA_8B, app, demand, devices, inventory, node

from placement import Plan, Problem, solve
from placement.demand import Budgets, Tenant
from placement.proof import audit
from placement.proof_rows import instance_of
from placement.verify import verify

L4, T4 = "NVIDIA_L4_24G", "NVIDIA_T4_16G"
FACTS = replace(LLAMA_8B, parameters=13e9, layers=40)
ASKED = demand("m", FACTS, dtype="fp16", context=512, engines=frozenset({"vllm"}), tenant="a")
MIXED = Problem(
    inventory=inventory(node("a", devices("a", L4)), node("b", devices("b", T4), rack="r2")),
    app=app(ASKED),
)


def solved(problem: Problem) -> Plan:
    plan = solve(problem)
    assert isinstance(plan, Plan)
    return plan


def test_what_fits_on_no_single_pool_is_a_chain_that_holds() -> None:
    plan = solved(MIXED)
    (slot,) = plan.slots
    assert sorted(slot.nodes) == ["a", "b"]
    report = audit(MIXED, plan)
    assert report.faults == ()
    assert report.bound == pytest.approx(plan.bound)
    assert read_back(MIXED, printed(plan)).faults == ()


def test_a_chain_takes_of_each_pool_what_stands_there() -> None:
    limits = replace(
        MIXED.app,
        budgets=Budgets(node_w=500.0, cluster_w=900.0),
        tenants=(Tenant(name="a", max_devices=((L4, 3), (T4, 2))),),
    )
    instance = instance_of(replace(MIXED, app=limits))
    chains = [o for o in instance.options[ASKED.id] if o.chain]
    assert chains
    for option in chains:
        for kind in (L4, T4):
            own = [stage for stage in option.chain if stage.pool.name == kind]
            watts = sum(stage.watts for stage in own)
            assert own
            assert instance.rows[f"devices:{kind}"].amount(option) == len(own)
            assert instance.rows[f"tenant:a:{kind}"].amount(option) == len(own)
            assert instance.rows[f"power:nodes:{kind}"].amount(option) == pytest.approx(watts)
        assert sum(stage.watts for stage in option.chain) == pytest.approx(option.predicted.power_w)
        assert sum(stage.layers for stage in option.chain) == FACTS.layers


def one_layer_over(document: dict[str, Any]) -> None:
    first, second = document["slots"][0]["stages"][:2]
    first["layers"][1] -= 1
    second["layers"][0] -= 1


def turned_round(document: dict[str, Any]) -> None:
    slot = document["slots"][0]
    places = [(s["node"], s["devices"]) for s in reversed(slot["stages"])]
    for stage, (where, held) in zip(slot["stages"], places, strict=True):
        stage["node"], stage["devices"] = where, held


@pytest.mark.parametrize("change", [one_layer_over, turned_round], ids=lambda c: c.__name__)
def test_other_stages_are_refused(change: Any) -> None:
    found = printed(solved(MIXED))
    change(found)
    assert read_back(MIXED, found).faults


def test_figures_of_a_chain_are_checked() -> None:
    found = printed(solved(MIXED))
    for key in ("watts", "tokens_per_s", "token_s", "price_per_hour"):
        changed = deepcopy(found)
        where = ("slots", 0, "predicted", key)
        put(changed, where, found["slots"][0]["predicted"][key] * 1.05)
        assert read_back(MIXED, changed).faults, key


def test_each_stage_keeps_to_what_its_own_class_allows() -> None:
    plan = solved(MIXED)
    second = plan.slots[0].stages[1]
    kind = next(n for n in MIXED.inventory.nodes if n.id == second.node).devices[0].device_class
    banned = replace(MIXED.app, demands=(replace(ASKED, banned=frozenset({kind})),))
    assert any("banned" in fault for fault in verify(replace(MIXED, app=banned), plan))
    few = replace(MIXED.app, tenants=(Tenant(name="a", max_devices=((kind, 0),)),))
    assert any(kind in fault for fault in verify(replace(MIXED, app=few), plan))
    weak = replace(MIXED.app, budgets=Budgets(node_w=plan.slots[0].predicted.power_w / 2.5))
    assert any("node" in fault for fault in verify(replace(MIXED, app=weak), plan))
