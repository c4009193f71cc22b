"""Changes of an inventory as values, and what they do to the figures of a plan."""

from __future__ import annotations

import pytest
from support.labs import SMOLLM2, app, cpu, demand, devices, inventory, mixed_lab, node

from placement import Plan, Problem, solve
from placement.effects import effects
from placement.errors import SpecError
from placement.inventory import Artifact, Inventory, Link
from placement.what_if import (
    AddDevices,
    AddNode,
    InventoryChange,
    RemoveDevice,
    RemoveDevices,
    RemoveNode,
    RemoveRack,
    changed,
)


def small() -> Inventory:
    return inventory(
        node("a", devices("a", "NVIDIA_L4_24G", 2, unhealthy=(1,)), cpu("a", 8, 32)),
        node(
            "b",
            devices("b", "NVIDIA_H100_80G", 4, islands=((0, 1), (2, 3))),
            rack="r2",
            artifacts=(Artifact(model="m", device_class="NVIDIA_H100_80G", tp=2),),
        ),
        links=(
            Link(between=("a", "b"), bytes_per_s=1e9, latency_s=1e-6),
            Link(between="nodes", bytes_per_s=1e9, latency_s=1e-6),
        ),
        generation=7,
    )


def ids(whole: Inventory, name: str) -> list[str]:
    found = whole.node(name)
    assert found is not None
    return [device.id for device in found.devices]


def test_added_devices_are_healthy_and_join_their_island() -> None:
    after = changed(small(), [AddDevices(node="a", device_class="NVIDIA_L4_24G", count=2)])
    assert ids(after, "a") == ["a/0", "a/1", "a/cpu0", "a/2", "a/3"]
    new = after.device("a/2")
    assert new.health == "healthy"
    assert new.island == after.device("a/0").island
    assert after.generation == 8


def test_devices_of_several_islands_get_one_of_their_own() -> None:
    after = changed(small(), [AddDevices(node="b", device_class="NVIDIA_H100_80G", count=2)])
    islands = [after.device(f"b/{k}").island for k in range(6)]
    assert islands == [0, 0, 1, 1, 2, 2]


def test_a_cpu_is_added_in_the_likeness_of_one_that_is_there() -> None:
    after = changed(small(), [AddDevices(node="b", device_class="CPU_AVX512", count=1)])
    assert after.device("b/cpu0").shares == 8
    with pytest.raises(SpecError, match="how large"):
        changed(mixed_lab(), [AddDevices(node="gpu-1", device_class="CPU_AMX", count=1)])


def test_a_node_is_added_where_none_has_the_name() -> None:
    after = changed(small(), [AddDevices(node="c", device_class="FURIOSA_RNGD", count=1)])
    assert [n.id for n in after.nodes] == ["a", "b", "c"]
    assert not after.device("c/0").emulated
    lab = changed(mixed_lab(), [AddDevices(node="c", device_class="FURIOSA_RNGD", count=1)])
    assert lab.device("c/0").emulated


def test_several_nodes_at_once() -> None:
    parts = (("NVIDIA_H100_80G", 2), ("NVIDIA_L4_24G", 1))
    after = changed(small(), [AddNode(node="n", rack="r3", count=2, parts=parts)])
    assert ids(after, "n-2") == ["n-2/0", "n-2/1", "n-2/2"]
    assert after.node("n-1").rack == "r3"
    assert [d.island for d in after.node("n-1").devices] == [0, 0, 1]


def test_what_is_removed_is_gone_with_its_links() -> None:
    assert [n.id for n in changed(small(), [RemoveNode(node="a")]).nodes] == ["b"]
    assert [link.between for link in changed(small(), [RemoveRack(rack="r2")]).links] == ["nodes"]
    assert ids(changed(small(), [RemoveDevice(device="b/1")]), "b") == ["b/0", "b/2", "b/3"]
    less = changed(small(), [RemoveDevices(node="b", device_class="NVIDIA_H100_80G", count=3)])
    assert ids(less, "b") == ["b/0"]


def test_changes_are_applied_in_order_as_one_generation() -> None:
    after = changed(
        small(),
        [RemoveNode(node="a"), AddDevices(node="a", device_class="NVIDIA_L4_24G", count=1)],
    )
    assert ids(after, "a") == ["a/0"]
    assert after.generation == 8
    assert changed(small(), []) == small()


@pytest.mark.parametrize(
    ("change", "says", "hint"),
    [
        (RemoveNode(node="gpu1"), "no node is called gpu1", "gpu-1"),
        (RemoveDevice(device="gpu-1/9"), "no device is called gpu-1/9", "gpu-1/"),
        (RemoveRack(rack="r7"), "no node is in a rack called r7", "r1"),
        (RemoveDevices(node="gpu-1", device_class="RBLN_ATOM", count=1), "has 0", "NVIDIA_H100"),
        (
            RemoveDevices(node="gpu-1", device_class="NVIDIA_H100_80G", count=5),
            "has 4",
            "NVIDIA_H100",
        ),
        (AddDevices(node="x", device_class="FURIOSA_RNG", count=1), "no device class", "RNGD"),
        (AddDevices(node="x", device_class="FURIOSA_RNGD", count=10**9), "cannot be", "100000"),
        (AddNode(node="gpu-1", parts=(("RBLN_ATOM", 1),)), "already", "+2 RBLN_ATOM@gpu-1"),
    ],
)
def test_a_wrong_change_is_named_with_a_way_out(
    change: InventoryChange, says: str, hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        changed(mixed_lab(), [change])
    assert says in caught.value.message
    assert str(change) in caught.value.message
    assert hint in caught.value.hint


def test_effects_are_sums_and_weighted_means() -> None:
    before = solve(Problem(inventory=mixed_lab(), app=app(demand("m", SMOLLM2, 1))))
    after = solve(Problem(inventory=mixed_lab(), app=app(demand("m", SMOLLM2, 3), demand("n"))))
    assert isinstance(before, Plan)
    assert isinstance(after, Plan)
    total, own, new = effects(before, after)
    assert (own.model, new.model) == ("m", "n")
    assert (own.gained, new.gained, total.gained) == (2, 1, 3)
    predicted = [slot.predicted for slot in after.slots]
    assert total.after.power_w == pytest.approx(sum(p.power_w for p in predicted))
    assert new.before.ttft_s is None
    assert new.before.joules_per_token is None
    rates = [p.tokens_per_s for p in predicted]
    assert total.after.token_s == pytest.approx(
        sum(p.token_s * rate for p, rate in zip(predicted, rates, strict=True)) / sum(rates)
    )


def test_without_a_plan_nothing_runs() -> None:
    (total,) = effects(None, None)
    assert total.before.replicas == total.after.replicas == 0
