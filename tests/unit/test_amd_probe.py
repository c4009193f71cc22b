"""AMD's GPUs on recorded machines, and on what is odd or missing there."""

from __future__ import annotations

import pytest
from support.hosts import FakeHost, in_memory, recorded

from actors.pci import DEVICES
from actors.probe import Absent, Broken, Found
from actors.probes.amd import AmdProbe
from actors.readers.kfd import NODES
from placement.devices import Health
from placement.ids import NodeId
from placement.interconnect import LinkKind, bonds, islands
from placement.units import GIB

NODE = NodeId("n")
PAIR = "synthetic-mi300x-pair"
FIRST = f"{DEVICES}/0000:05:00.0"


def found(host) -> Found:
    outcome = AmdProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def place(host: FakeHost, path: str) -> str:
    """Where a path leads on a machine in memory."""
    return host.resolve(path) or path


def test_captured_cards_of_two_hives():
    outcome = found(recorded("amd", "captured-mi210-xgmi"))
    first, *_ = outcome.accelerators
    assert first.identity == "amd:1901ead3a2ecd4a6@0000:63:00.0"
    assert (first.product, first.device_class) == ("AMD Instinct MI210", "AMD_MI210_64G")
    assert first.memory_bytes is None, "the recording has no memory banks"
    assert [a.handle for a in outcome.accelerators] == ["0", "1", "2", "3", "4"]
    assert [a.pci for a in outcome.accelerators][1] == "0000:43:00.0"
    assert set(outcome.links or {}) == {
        (a.identity, b.identity)
        for k, a in enumerate(outcome.accelerators)
        for b in outcome.accelerators[k + 1 :]
        if outcome.accelerators.index(a) // 3 == outcome.accelerators.index(b) // 3
    }
    assert {(link.kind, link.bytes_per_s) for link in (outcome.links or {}).values()} == {
        (LinkKind.DIRECT, 50e9)
    }
    names = [a.identity for a in outcome.accelerators]
    assert list(islands([names], bonds(outcome.links or {})).values()) == [0, 0, 0, 1, 1]


def test_captured_partitions_are_parts_of_a_card():
    outcome = found(recorded("amd", "captured-mi300x-cpx"))
    assert len(outcome.accelerators) == 16
    part = outcome.accelerators[11]
    assert (part.identity, part.handle) == ("amd:2250f807caf2231a@0000:27:00.0/xcp:3", "11")
    (part_class,) = outcome.classes
    assert part.device_class == part_class.name == "AMD_MI300X_192G_1_OF_8"
    assert part_class.memory_bytes == pytest.approx(192 * GIB * 0.9 / 8, rel=0.01)
    links = outcome.links or {}
    one, two, *_ = (a.identity for a in outcome.accelerators)
    assert links[one, two].kind is LinkKind.SAME
    assert links[one, part.identity].kind is LinkKind.DIRECT
    assert links[one, part.identity].bytes_per_s is None, "the topology says 0"


def test_captured_workstation_offers_the_card_and_not_the_processors_gpu():
    host = recorded("amd", "captured-rx7800xt")
    outcome = found(host)
    (card,) = outcome.accelerators
    assert (card.uuid, card.pci, card.device_class) == (
        "5c88007d760374f3",
        "0000:03:00.0",
        "AMD_RX7800XT_16G",
    )
    assert (card.power_limit_w, card.temperature_limit_c, card.driver) == (236.0, 100.0, "6.12.12")
    assert card.memory_bytes == 16368 * 2**20
    assert outcome.broken == ()


def test_what_a_card_does_now():
    host = recorded("amd", "captured-rx7800xt")
    probe = AmdProbe()
    outcome = probe.probe(host, NODE)
    assert isinstance(outcome, Found)
    (reading,) = probe.poll(host, outcome).values()
    assert (reading.memory_used_bytes, reading.utilisation) == (206 * 2**20, 0.19)
    assert (reading.temperature_c, reading.power_w) == (34.0, 17.0)


def test_memory_errors_degrade_a_card():
    first, second = found(recorded("amd", PAIR)).accelerators
    assert first.health is Health.HEALTHY
    assert first.evidence == ()
    assert second.health is Health.DEGRADED
    assert second.evidence == ("3 uncorrectable memory errors",)


def test_cards_of_a_hive_on_two_sockets_are_joined_directly():
    outcome = found(recorded("amd", PAIR))
    (link,) = (outcome.links or {}).values()
    assert (link.kind, link.bytes_per_s) == (LinkKind.DIRECT, 64e9)


def test_without_a_fabric_the_pci_tree_counts():
    host = in_memory("amd", PAIR).but({f"{NODES}/{n}/io_links": None for n in (2, 3)})
    (link,) = (found(host).links or {}).values()
    assert link.kind is LinkKind.SYSTEM


def test_a_container_that_sees_one_partition_of_eight_knows_it_is_one():
    host = in_memory("amd", PAIR)
    folder = place(host, FIRST)
    properties = host.files[f"{NODES}/2/properties"].replace("location_id 1280", "location_id 1283")
    changed = host.but(
        {
            f"{NODES}/3": None,
            f"{NODES}/2/properties": properties,
            f"{NODES}/2/mem_banks/0/properties": f"heap_type 1\nsize_in_bytes {206141652992 // 8}\n",
            f"{folder}/current_compute_partition": "CPX\n",
        }
    )
    probe = AmdProbe()
    outcome = probe.probe(changed, NODE)
    assert isinstance(outcome, Found)
    (part,) = outcome.accelerators
    assert (part.part, part.pci, part.memory_bytes) == ("xcp:3", "0000:05:00.0", 206141652992 // 8)
    assert outcome.classes[0].name.endswith("_1_OF_8")
    assert "0000:a6:00.0" in outcome.broken[0].reason, "the other card is there, too"


def test_the_power_of_a_card_is_told_once_over_all_its_parts():
    host = in_memory("amd", PAIR)
    second = host.files[f"{NODES}/2/properties"].replace("location_id 1280", "location_id 1281")
    changed = host.but({f"{NODES}/3/properties": second})
    probe = AmdProbe()
    outcome = probe.probe(changed, NODE)
    assert isinstance(outcome, Found)
    readings = probe.poll(changed, outcome).values()
    assert sum(r.power_w or 0.0 for r in readings) == pytest.approx(141.0)
    assert [r.memory_used_bytes for r in readings] == [None, None]


def test_a_partition_of_newer_kernels_is_told_by_the_highest_bits():
    host = in_memory("amd", PAIR)
    high = host.files[f"{NODES}/2/properties"].replace(
        "location_id 1280", f"location_id {(5 << 28) | 1280}"
    )
    outcome = found(host.but({f"{NODES}/3/properties": high}))
    assert [a.part for a in outcome.accelerators] == ["xcp:0", "xcp:5"]


@pytest.mark.parametrize(
    ("access", "words"), [("denied", "usermod -aG render"), ("absent", "--device")]
)
def test_a_control_file_that_cannot_be_opened_is_broken(access, words):
    host = in_memory("amd", "captured-rx7800xt")
    host = (
        host.but({}, denied=frozenset({"/dev/kfd"}))
        if access == "denied"
        else host.but({"/dev/kfd": None})
    )
    outcome = AmdProbe().probe(host, NODE)
    assert isinstance(outcome, Broken)
    assert words in outcome.hint


def test_a_card_without_its_driver_is_broken():
    host = in_memory("amd", "captured-rx7800xt")
    event = f"{place(host, f'{DEVICES}/0000:03:00.0')}/uevent"
    host = host.but({"/sys/class/kfd": None, event: "PCI_SLOT_NAME=0000:03:00.0\n"})
    outcome = AmdProbe().probe(host, NODE)
    assert isinstance(outcome, Broken)
    assert "0000:03:00.0 (no driver)" in outcome.reason
    assert "0000:0d:00.0" not in outcome.reason, "nobody misses the processor's own GPU"
    assert "modprobe amdgpu" in outcome.hint


def test_a_machine_with_only_the_processors_gpu_has_nothing():
    host = in_memory("amd", "captured-rx7800xt")
    card = place(host, f"{DEVICES}/0000:03:00.0")
    links = {k: v for k, v in host.links.items() if v != card}
    host = host.but({card: None, f"{NODES}/1": None}, links=links)
    assert AmdProbe().probe(host, NODE) == Absent()


def test_an_unlisted_card_gets_a_class_of_its_own():
    host = in_memory("amd", "captured-rx7800xt")
    folder = place(host, f"{DEVICES}/0000:03:00.0")
    properties = host.files[f"{NODES}/1/properties"].replace("device_id 29822", "device_id 29999")
    outcome = found(
        host.but({f"{NODES}/1/properties": properties, f"{folder}/product_name": "Radeon Next\n"})
    )
    (card,) = outcome.accelerators
    assert (card.device_class, outcome.classes[0].name) == ("AMD_RADEON_NEXT_16G",) * 2


@pytest.mark.parametrize(
    "text", ["", "\x1b[31mgarbage", "location_id -1\nsimd_count 4\n", "simd_count " + "9" * 40]
)
def test_a_node_that_makes_no_sense_is_no_gpu(text):
    host = in_memory("amd", PAIR).but({f"{NODES}/3/properties": text})
    assert [a.pci for a in found(host).accelerators] == ["0000:05:00.0"]


@pytest.mark.parametrize("value", ["", "-1\n", f"{2**64}\n", "many\n"])
def test_values_that_make_no_sense_are_unknown(value):
    host = in_memory("amd", PAIR)
    folder = place(host, FIRST)
    names = (
        "mem_info_vram_used",
        "gpu_busy_percent",
        "hwmon/hwmon7/power1_input",
        "hwmon/hwmon7/temp2_input",
    )
    host = host.but({f"{folder}/{name}": value for name in names})
    probe = AmdProbe()
    outcome = probe.probe(host, NODE)
    assert isinstance(outcome, Found)
    reading = probe.poll(host, outcome)[outcome.accelerators[0].identity]
    assert (reading.memory_used_bytes, reading.utilisation, reading.power_w) == (None, None, None)
    assert reading.temperature_c == (-0.001 if value == "-1\n" else None)
