"""Declared nodes: the mapping of the formats page becomes devices; what is wrong is named by its path of keys."""

from __future__ import annotations

import json

import pytest
from support.hosts import FakeHost

from actors.declared import devices_of
from actors.names import EMULATE_ENV
from actors.probe import Absent, Found
from actors.prober import Prober
from actors.probes.cpu import CpuProbe
from actors.probes.emulated import EmulatedProbe
from placement.catalog import catalog
from placement.devices import Health, Kind
from placement.errors import SpecError
from placement.ids import NodeId
from placement.units import GIB

NODE = NodeId("gpu-1")
H100 = "NVIDIA_H100_80G"
CARD = {
    "class": "MY_NEW_CARD",
    "count": 2,
    "memory_gib": 24,
    "memory_gbyte_per_s": 600,
    "tflops": {"fp16": 80, "int8": "1.6e2"},
    "watts": 150,
}


def devices(*groups, **keys):
    return devices_of(NODE, {"devices": list(groups), **keys}, catalog(), emulated=True)


def test_positions_count_over_the_list_and_the_cpu_comes_last():
    found, classes = devices(
        {"class": H100, "count": 2}, CARD, cpu={"cores": 64, "memory_gib": 1024}, rack="r1"
    )
    assert [d.id for d in found] == ["gpu-1/0", "gpu-1/1", "gpu-1/2", "gpu-1/3", "gpu-1/cpu0"]
    assert [d.handle for d in found] == ["0", "1", "2", "3", "0-63"]
    assert all(d.emulated and d.node == NODE for d in found)
    cpu = found[-1]
    assert (cpu.device_class, cpu.shares, cpu.memory_bytes) == ("CPU", 64, 1024 * GIB)
    assert found[0].memory_bytes == catalog()[H100].memory_bytes
    assert found[2].memory_bytes == 24 * GIB
    (card,) = classes
    assert (card.name, card.kind, card.bandwidth_bytes_per_s, card.power_w) == (
        "MY_NEW_CARD",
        Kind.GPU,
        600e9,
        150.0,
    )
    assert dict(card.flops) == {"fp16": 80e12, "int8": 160e12}


def test_a_declaration_may_also_mean_hardware():
    found, _ = devices_of(NODE, {"devices": [{"class": H100}]}, catalog(), emulated=False)
    assert not found[0].emulated


def test_islands_and_health():
    found, _ = devices(
        {"class": H100, "count": 6, "islands": [[0, 1], [2, 3]], "unhealthy": [3]},
        {"class": "RBLN_ATOM", "count": 2, "unhealthy": [0]},
    )
    islands = [d.island for d in found]
    assert islands[0] == islands[1] != islands[2] == islands[3]
    assert islands[6] == islands[7]
    assert len(set(islands)) == 5, "two islands, two devices that stand alone, and the other entry"
    assert [d.id for d in found if d.health is not Health.HEALTHY] == ["gpu-1/3", "gpu-1/6"]


def test_figures_of_a_known_class_can_be_overridden():
    (device,), (changed,) = devices({"class": H100, "memory_gib": 40, "watts": 350})
    assert device.memory_bytes == 40 * GIB
    known = catalog()[H100]
    assert changed.power_w == 350
    assert (changed.flops, changed.memory_bytes) == (known.flops, known.memory_bytes)


def test_a_smaller_card_of_a_known_class_is_no_new_class():
    assert devices({"class": H100, "memory_gib": 40})[1] == ()


def test_a_class_declared_once_is_known_to_later_entries():
    found, classes = devices(CARD, {"class": "MY_NEW_CARD"})
    assert [d.device_class for d in found] == ["MY_NEW_CARD"] * 3
    assert len(classes) == 1


def test_nothing_declared_is_no_device():
    assert devices_of(NODE, {"cpu": None, "cordoned": True}, catalog(), emulated=True) == ((), ())


@pytest.mark.parametrize(
    ("mapping", "says", "hint"),
    [
        ({"devices": [{"class": "NVIDIA_H10_80G"}]}, "devices[0].class: NVIDIA_H10_80G", H100),
        ({"devices": [{"class": H100, "cuont": 1}]}, "devices[0].cuont: unknown key", "count"),
        ({"devices": [{"class": H100, "count": 0}]}, "devices[0].count", ""),
        ({"devices": [{"class": H100, "count": 10**6}]}, "devices[0].count", ""),
        ({"devices": [{"class": H100, "count": 4000}] * 2}, "devices: more than", ""),
        ({"devices": [{"class": H100, "count": True}]}, "devices[0].count", ""),
        ({"devices": [{"class": H100, "unhealthy": [1]}]}, "devices[0].unhealthy: position 1", ""),
        (
            {"devices": [{"class": H100, "count": 3, "islands": [[0, 1], [1, 2]]}]},
            "devices[0].islands: a device can be in one island only",
            "",
        ),
        ({"devices": [{"class": "NEW", "memory_gib": 2}]}, "devices[0].class", "tflops"),
        ({"devices": [CARD | {"tflops": {"fp17": 1}}]}, "devices[0].tflops.fp17", ""),
        ({"devices": [CARD | {"memory_gib": float("nan")}]}, "devices[0].memory_gib", ""),
        ({"devices": [CARD | {"kind": "toaster"}]}, "devices[0].kind", ""),
        ({"devices": {"class": H100}}, "devices: should be a valid list", ""),
        ({"devices": ["H100"]}, "devices[0]: should be a mapping", ""),
        ({"cpu": {"cores": -1, "memory_gib": 2}}, "cpu.cores", ""),
        ({"cpu": {"cores": 2}}, "cpu.memory_gib: is required", ""),
        ({"cpu": {"cores": 2, "memory_gib": 2, "core": 1}}, "cpu.core: unknown key", "cores"),
        ({"cpu": {"cores": 2, "memory_gib": 2, "class": H100}}, "cpu.class", "CPU"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(mapping, says, hint):
    with pytest.raises(SpecError) as caught:
        devices_of(NODE, mapping, catalog(), emulated=True)
    assert caught.value.message.startswith(says)
    assert hint in caught.value.hint
    assert caught.value.fields["path"][0] == next(iter(mapping))


def emulating(declaration: object) -> FakeHost:
    return FakeHost(variables={EMULATE_ENV: json.dumps(declaration)})


def test_the_probe_reads_the_environment_of_its_node():
    declaration = {"rack": "r2", "cpu": {"cores": 8, "memory_gib": 16}, "devices": [CARD]}
    outcome = EmulatedProbe().probe(emulating(declaration), NODE)
    assert isinstance(outcome, Found)
    assert [d.id for d in outcome.devices] == ["gpu-1/0", "gpu-1/1", "gpu-1/cpu0"]
    assert (outcome.rack, outcome.instead) == ("r2", True)
    assert outcome.cpu is not None
    assert outcome.cpu.usable_cores == 8
    assert outcome.cpu.cores is None


def test_a_node_without_declaration_is_not_emulated():
    assert EmulatedProbe().probe(FakeHost(), NODE) == Absent()
    assert EmulatedProbe().probe(FakeHost(variables={EMULATE_ENV: ""}), NODE) == Absent()


@pytest.mark.parametrize("text", ["{", "[]", "42", '{"devices": [{"class": "TYPO"}]}'])
def test_a_wrong_declaration_never_falls_back_to_the_real_machine(text):
    host = FakeHost(
        files={"/proc/cpuinfo": "processor: 0\n", "/proc/meminfo": "MemTotal: 4194304 kB\n"},
        variables={EMULATE_ENV: text},
    )
    report = Prober(host, NODE, [CpuProbe(), EmulatedProbe()]).report()
    assert report.devices == ()
    assert report.emulated
    assert [b.name for b in report.broken] == ["emulated"]


def test_a_declaration_can_be_given_directly():
    outcome = EmulatedProbe({"devices": [{"class": H100}]}).probe(FakeHost(), NODE)
    assert isinstance(outcome, Found)
    assert [d.device_class for d in outcome.devices] == [H100]
