"""A diff says why each replica moves, as far as it is told what the plans were made of."""

from __future__ import annotations

from dataclasses import replace

from support.labs import (
    LLAMA_8B,
    SMOLLM2,
    app,
    demand,
    devices,
    inventory,
    mixed_lab,
    node,
    without_node,
)

from placement import Plan, Problem, diff, solve
from placement.demand import App
from placement.devices import Health
from placement.ids import DeviceId, NodeId
from placement.inventory import Inventory
from placement.plan import Change


def planned(inv: Inventory, asked: App, current: Plan | None = None) -> Plan:
    result = solve(Problem(inventory=inv, app=asked, current=current))
    assert isinstance(result, Plan)
    return result


def moved(changes: tuple[Change, ...]) -> Change:
    (change,) = [c for c in changes if c.kind == "move"]
    return change


def l4s(*names: str) -> Inventory:
    return inventory(*(node(name, devices(name, "NVIDIA_L4_24G", 1)) for name in names))


SMALL = app(demand("m", LLAMA_8B, context=1024, concurrency=1))


def test_a_node_that_left_is_named() -> None:
    before = planned(l4s("a", "b"), SMALL)
    (name,) = before.slots[0].nodes
    left = without_node(l4s("a", "b"), name)
    change = moved(diff(before, planned(left, SMALL, before), inventory=left))
    assert change.reason.startswith(f"node {name} is gone; devices: {name}/0 -> ")


def test_a_sick_device_and_a_cordoned_node_are_named() -> None:
    before = planned(l4s("a", "b"), SMALL)
    (device,) = before.slots[0].devices
    whole = l4s("a", "b")
    sick = replace(
        whole,
        nodes=tuple(
            replace(
                n,
                devices=tuple(
                    replace(d, health=Health.LOST) if d.id == device else d for d in n.devices
                ),
            )
            for n in whole.nodes
        ),
    )
    change = moved(diff(before, planned(sick, SMALL, before), inventory=sick))
    assert f"device {device} is lost" in change.reason
    cordoned = replace(
        whole,
        nodes=tuple(
            replace(n, cordoned=n.id == before.slots[0].nodes[0], cordon_reason="new driver")
            for n in whole.nodes
        ),
    )
    change = moved(diff(before, planned(cordoned, SMALL, before), inventory=cordoned))
    assert "is cordoned (new driver)" in change.reason


def test_a_removed_device_is_named_when_its_replica_stops() -> None:
    inv = inventory(node("a", devices("a", "NVIDIA_L4_24G", 2)))
    asked = app(demand("m", LLAMA_8B, (1, 2), context=1024, concurrency=1))
    before = planned(inv, asked)
    left = inventory(node("a", devices("a", "NVIDIA_L4_24G", 1)))
    after = planned(left, asked, before)
    (stop,) = [c for c in diff(before, after, inventory=left) if c.kind == "stop"]
    assert stop.reason.startswith("device a/1 is gone; ")


def test_a_changed_key_of_the_spec_is_named() -> None:
    inv = l4s("a")
    longer = app(demand("m", LLAMA_8B, context=2048, concurrency=1))
    before = planned(inv, SMALL)
    after = planned(inv, longer, before)
    change = moved(diff(before, after, inventory=inv, before_app=SMALL, app=longer))
    assert change.reason.startswith("the spec changed: models.m.context 1024 -> 2048")


def test_a_move_for_its_own_sake_says_gain_and_cost() -> None:
    before = planned(l4s("a"), SMALL)
    better = inventory(
        node("a", devices("a", "NVIDIA_L4_24G", 1)), node("h", devices("h", "NVIDIA_H100_80G", 1))
    )
    after = planned(better, SMALL)
    change = moved(diff(before, after, inventory=better, before_app=SMALL, app=SMALL))
    assert change.reason.startswith("gains ")
    assert "of worth" in change.reason
    assert "tokens/s more" in change.reason
    assert "s of loading (about " in change.reason


def test_a_move_that_makes_room_says_for_whom() -> None:
    one = app(demand("m", SMOLLM2, pin_nodes=frozenset({NodeId("npu-1")})))
    before = planned(mixed_lab(), one)
    taken = before.slots[0].devices[0]
    slot = replace(
        before.slots[0],
        stages=(replace(before.slots[0].stages[0], devices=(DeviceId("npu-1/3"),)),),
    )
    other = replace(before.slots[0], id="other/r0", model="other")
    after = replace(before, slots=(slot, other))
    change = moved(diff(before, after, inventory=mixed_lab()))
    assert "makes room for other/r0" in change.reason
    assert f"devices: {taken} -> npu-1/3" in change.reason


def test_two_plans_alone_still_say_what_differs() -> None:
    before = planned(l4s("a", "b"), SMALL)
    left = without_node(l4s("a", "b"), before.slots[0].nodes[0])
    change = moved(diff(before, planned(left, SMALL, before)))
    assert "devices: " in change.reason
    assert "is gone" not in change.reason
