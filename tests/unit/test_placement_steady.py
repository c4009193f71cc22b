"""A plan that still holds is left alone: only a gain that is worth the restarts moves healthy replicas."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.labs import SMOLLM2, app, cpu, demand, devices, inventory, node

from placement.inventory import Inventory
from placement.plan import Plan
from placement.problem import Problem
from placement.solve import WORTH_MOVING, solve
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


def test_a_node_that_is_a_little_better_moves_nothing() -> None:
    before = planned(inventory(OLD))
    joined = inventory(OLD, BETTER, generation=2)
    assert planned(joined).slots[0].nodes == ("b",), "a fresh plan would move it"
    after = planned(joined, before)
    assert after.slots == before.slots
    assert after.generation == 2
    assert after.bound >= after.value
    assert after.gap <= WORTH_MOVING


def test_a_node_that_is_much_better_is_worth_a_move() -> None:
    before = planned(inventory(SLOW))
    after = planned(inventory(SLOW, BETTER, generation=2), before)
    assert after.slots[0].nodes == ("b",)


@pytest.mark.parametrize("gone", [True, False])
def test_a_lost_or_unhealthy_device_is_left_at_once(gone: bool) -> None:
    before = planned(inventory(OLD))
    used = before.slots[0].devices[0]
    kept = devices("a", "RBLN_ATOM", 2, emulated=True, unhealthy=() if gone else (int(used[-1]),))
    left = tuple(d for d in kept if not gone or d.id != used)
    after = planned(inventory(node("a", left), generation=2), before)
    assert after.slots[0].devices != before.slots[0].devices


def test_a_changed_wish_is_planned_anew() -> None:
    before = planned(inventory(OLD))
    more = replace(WISH, demands=(demand("m", SMOLLM2, 2),))
    assert len(planned(inventory(OLD), before, more).slots) == 2
    banned = replace(WISH, demands=(demand("m", SMOLLM2, 1, banned=frozenset({"RBLN_ATOM"})),))
    assert planned(inventory(OLD, BETTER), before, banned).slots[0].nodes == ("b",)
