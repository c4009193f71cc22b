"""Planning again: what runs stays unless its devices are gone or a move is worth what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.labs import (
    LLAMA_8B,
    SMOLLM2,
    app,
    cpu,
    demand,
    devices,
    inventory,
    node,
    without_node,
)

from placement.inventory import Inventory
from placement.plan import Plan
from placement.problem import Problem
from placement.solve import solve
from placement.staying import DOUBT, WINDOW_S
from placement.verify import verify

OLD = node("a", devices("a", "RBLN_ATOM", 2, emulated=True))
BETTER = node("b", devices("b", "NVIDIA_H100_80G", 1, emulated=True))
SLOW = node("a", cpu("a", 4, 8.0, "CPU", emulated=True))
WISH = app(demand("m", SMOLLM2, 1))


def planned(there: Inventory, current: Plan | None = None, asked=WISH) -> Plan:
    problem = Problem(inventory=there, app=asked, current=current)
    plan = solve(problem)
    assert isinstance(plan, Plan)
    assert verify(problem, plan) == ()
    return plan


def price_of_a_move(plan: Plan) -> float:
    """What leaving the one slot of a plan must gain at least."""
    (slot,) = plan.slots
    loading = min(1.0, slot.predicted.load_s / WINDOW_S)
    return plan.value * (loading + DOUBT * slot.predicted.uncertainty)


def test_a_node_that_is_a_little_better_moves_nothing() -> None:
    before = planned(inventory(OLD))
    joined = inventory(OLD, BETTER, generation=2)
    fresh = planned(joined)
    assert fresh.slots[0].nodes == ("b",), "a fresh plan would move it"
    assert 0 < fresh.value - before.value < price_of_a_move(before)
    after = planned(joined, before)
    assert [s.stages for s in after.slots] == [s.stages for s in before.slots]
    assert [s.id for s in after.slots] == [s.id for s in before.slots]
    assert after.generation == 2


def test_a_plan_that_stays_put_owns_up_to_what_it_forgoes() -> None:
    joined = inventory(OLD, BETTER, generation=2)
    after = planned(joined, planned(inventory(OLD)))
    assert after.bound >= planned(joined).value - 1e-9
    assert not after.proven


def test_a_node_that_is_much_better_is_worth_a_move() -> None:
    before = planned(inventory(SLOW))
    after = planned(inventory(SLOW, BETTER, generation=2), before)
    assert after.slots[0].nodes == ("b",)
    assert after.value - before.value > price_of_a_move(before)


def test_a_node_that_joins_is_used_by_what_found_no_place() -> None:
    asked = app(demand("m", SMOLLM2, (1, 3)))
    before = planned(inventory(OLD), asked=asked)
    assert len(before.slots) == 2
    after = planned(inventory(OLD, BETTER, generation=2), before, asked)
    assert {s.id: s.devices for s in before.slots}.items() <= {
        s.id: s.devices for s in after.slots
    }.items()
    assert len(after.slots) == 3


@pytest.mark.parametrize("gone", [True, False])
def test_a_lost_or_unhealthy_device_is_left_at_once(gone: bool) -> None:
    before = planned(inventory(OLD))
    used = before.slots[0].devices[0]
    kept = devices("a", "RBLN_ATOM", 2, emulated=True, unhealthy=() if gone else (int(used[-1]),))
    left = tuple(d for d in kept if not gone or d.id != used)
    after = planned(inventory(node("a", left), generation=2), before)
    assert after.slots[0].devices != before.slots[0].devices


def moved(before: Plan, after: Plan, lost: str) -> tuple[int, int]:
    """Replicas that lost their devices, and others that changed all the same."""
    there = {s.id: s.stages for s in after.slots}
    displaced = sum(lost in s.nodes for s in before.slots)
    changed = sum(lost not in s.nodes and there.get(s.id) != s.stages for s in before.slots)
    return displaced, changed


@pytest.mark.parametrize("lost", ["n0", "n1", "n2", "n3"])
def test_a_lost_node_moves_only_what_was_on_it(lost: str) -> None:
    whole = inventory(*(node(f"n{k}", devices(f"n{k}", "NVIDIA_L4_24G", 2)) for k in range(4)))
    asked = app(*(demand(name, LLAMA_8B, context=1024, concurrency=1) for name in ("a", "b", "c")))
    before = planned(whole, asked=asked)
    after = planned(without_node(whole, lost), before, asked)
    assert moved(before, after, lost)[1] == 0
    assert len(after.slots) == len(before.slots)
    assert lost not in {name for s in after.slots for name in s.nodes}


@pytest.mark.parametrize("lost", ["n0", "n1", "n2", "n3"])
def test_where_all_is_full_no_more_make_way_than_were_displaced(lost: str) -> None:
    """Six copies on eight devices, two of them in pairs; six devices are left, one for each copy."""
    whole = inventory(*(node(f"n{k}", devices(f"n{k}", "NVIDIA_L4_24G", 2)) for k in range(4)))
    asked = app(
        *(demand(name, LLAMA_8B, 2, context=1024, concurrency=1) for name in ("a", "b", "c"))
    )
    before = planned(whole, asked=asked)
    after = planned(without_node(whole, lost), before, asked)
    displaced, changed = moved(before, after, lost)
    assert displaced
    assert changed <= displaced
    assert len({device for s in after.slots for device in s.devices}) == 6


def test_a_replica_makes_way_where_the_displaced_one_fits_nowhere_else() -> None:
    """The large model needs a whole island; after the loss it finds one only where the small one runs."""
    whole = inventory(
        node("n0", devices("n0", "NVIDIA_L4_24G", 2)),
        node("n1", devices("n1", "NVIDIA_L4_24G", 2)),
        node("n2", devices("n2", "NVIDIA_L4_24G", 1)),
    )
    small = demand("s", SMOLLM2, 1, engines=frozenset({"vllm"}))
    large = demand("l", LLAMA_8B, 1, engines=frozenset({"vllm"}), context=8192, concurrency=16)
    asked = app(large, small)
    before = planned(whole, asked=asked)
    (wide,) = (s for s in before.slots if s.model == "l")
    assert wide.tp == 2
    after = planned(without_node(whole, wide.nodes[0]), before, asked)
    assert {s.model for s in after.slots} == {"l", "s"}


def test_planning_again_with_nothing_changed_changes_nothing() -> None:
    whole = inventory(*(node(f"n{k}", devices(f"n{k}", "NVIDIA_L4_24G", 2)) for k in range(3)))
    asked = app(demand("a", LLAMA_8B, 2, context=1024, concurrency=1), demand("b", SMOLLM2, (0, 2)))
    before = planned(whole, asked=asked)
    again = planned(replace(whole, generation=2), before, asked)
    assert again.slots == before.slots
    assert again.value == before.value


def test_a_changed_wish_is_planned_anew() -> None:
    before = planned(inventory(OLD))
    more = replace(WISH, demands=(demand("m", SMOLLM2, 2),))
    assert len(planned(inventory(OLD), before, more).slots) == 2
    banned = replace(WISH, demands=(demand("m", SMOLLM2, 1, banned=frozenset({"RBLN_ATOM"})),))
    assert planned(inventory(OLD, BETTER), before, banned).slots[0].nodes == ("b",)
