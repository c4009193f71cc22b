"""The NVIDIA probe on recorded machines and on answers that no sane driver gives."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from support.hosts import FakeHost, in_memory, recorded

from actors.probe import Absent, Broken, Found
from actors.probes.nvidia import NvidiaProbe
from actors.tools import Completed
from placement.catalog import catalog
from placement.devices import Health
from placement.ids import NodeId
from placement.interconnect import Interconnect, LinkKind, bonds, islands
from placement.units import GIB, MIB

NODE = NodeId("n")
HGX = "synthetic-hgx-h100-nvswitch"
FACTS, LIVE = "nvml_facts", "nvml_live"


def outcome(host) -> Found | Absent | Broken:
    return NvidiaProbe().probe(host, NODE)


def found(host) -> Found:
    told = outcome(host)
    assert isinstance(told, Found), told
    return told


def machine(name: str) -> FakeHost:
    return in_memory("nvidia", name)


def told(host: FakeHost, question: str = FACTS) -> dict[str, Any]:
    text = host.libraries[question]
    assert isinstance(text, str)
    return json.loads(text)


def telling(host: FakeHost, facts: object, live: object = None) -> FakeHost:
    said = {**host.libraries, FACTS: json.dumps(facts)}
    return replace(host, libraries={**said, **({LIVE: json.dumps(live)} if live else {})})


def card(**changes: Any) -> Found:
    """A machine with one card like the first of the recorded eight, but."""
    host = machine(HGX)
    facts = told(host)
    return found(
        telling(
            FakeHost(variables={"SHARDYARD_NVML": "1"}),
            {**facts, "gpus": [{**facts["gpus"][0], **changes}]},
        )
    )


def readings(host: FakeHost):
    probe = NvidiaProbe()
    told = probe.probe(host, NODE)
    assert isinstance(told, Found), told
    return probe.poll(host, told)


def test_eight_cards_behind_switches_are_one_island():
    told = found(recorded("nvidia", HGX))
    assert {a.device_class for a in told.accelerators} == {"NVIDIA_H100_80G"}
    assert told.classes == ()
    assert told.broken == ()
    assert told.links is not None
    (bond,) = bonds(told.links)
    assert bond.link == Interconnect(
        kind=LinkKind.DIRECT, lanes=18, bytes_per_s=pytest.approx(18 * 26.562e9)
    )
    ids = [a.identity for a in told.accelerators]
    assert set(islands([ids], [bond]).values()) == {0}


def test_a_card_tells_what_placement_and_people_need():
    first = found(recorded("nvidia", HGX)).accelerators[0]
    assert first.identity == "nvidia:GPU-01000100-0000-0000-0000-000000000000@0000:1a:00.0"
    assert first.handle == "GPU-01000100-0000-0000-0000-000000000000"
    assert (first.serial, first.driver) == ("1562821083900", "550.163.01")
    assert (first.memory_bytes, first.numa_node) == (81559 * MIB, 0)
    assert (first.power_limit_w, first.temperature_limit_c) == (700.0, 87.0)
    assert ("pcie", "32.0 GT/s x16") in first.notes
    assert first.health is Health.HEALTHY


def test_cards_that_change_their_order_keep_their_identities():
    host = machine(HGX)
    facts = told(host)
    turned = {**facts, "gpus": facts["gpus"][::-1]}
    before, after = found(host), found(telling(host, turned))
    assert {a.identity: a.handle for a in before.accelerators} == {
        a.identity: a.handle for a in after.accelerators
    }
    assert before.links is not None
    assert after.links is not None
    assert len(bonds(after.links)) == 1


def test_links_of_a_card_that_lost_some_of_them_are_fewer():
    host = machine(HGX)
    facts = told(host)
    facts["gpus"][3]["nvlinks"] = facts["gpus"][3]["nvlinks"][:2]
    links = found(telling(host, facts)).links
    assert links is not None
    third = facts["gpus"][3]["uuid"]
    assert {link.lanes for pair, link in links.items() if third in "".join(pair)} == {9}
    assert {link.lanes for pair, link in links.items() if third not in "".join(pair)} == {18}


def test_bridged_pairs_are_islands_of_two():
    host = machine(HGX)
    facts = told(host)
    gpus = facts["gpus"][:4]
    for one, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        far = {"pci": gpus[other]["pci"], "kind": 0, "version": 4, "links": 12}
        gpus[one] |= {"nvlinks": [far], "nvlink_mbyte_per_s": None}
    links = found(telling(host, {**facts, "gpus": gpus})).links
    assert links is not None
    kinds = [link.kind for link in links.values()]
    assert kinds.count(LinkKind.DIRECT) == 2
    assert {k.bytes_per_s for k in links.values() if k.lanes} == {300e9}
    assert LinkKind.NUMA in kinds


def test_without_nvlink_the_pci_tree_tells():
    host = machine(HGX)
    facts = told(host)
    for gpu in facts["gpus"]:
        gpu["nvlinks"] = []
    links = found(telling(host, facts)).links
    assert links is not None
    first = [link.kind for link in list(links.values())[:7]]
    assert first[0] is LinkKind.SWITCH
    assert set(first[1:3]) == {LinkKind.NUMA}
    assert set(first[3:]) == {LinkKind.SYSTEM}


def test_captured_cards_with_twice_their_memory_are_a_class_of_their_own():
    told = found(recorded("nvidia", "captured-rtx4090-48g"))
    (made,) = told.classes
    assert {a.device_class for a in told.accelerators} == {made.name}
    assert made.name == "NVIDIA_GEFORCE_RTX_4090_48G"
    assert made.name not in catalog()
    assert made.memory_bytes < 49140 * MIB
    assert {"gbyte_per_s", "tflops"} <= set(made.recalled)
    assert told.links is not None
    assert [link.kind for link in told.links.values()] == [LinkKind.HOST_BRIDGE]
    assert told.accelerators[0].temperature_limit_c is None
    assert told.accelerators[0].serial is None


def test_captured_card_of_the_catalog():
    host = recorded("nvidia", "captured-rtx5090d")
    (only,) = found(host).accelerators
    assert only.device_class == "NVIDIA_RTX_5090D_32G"
    reading = NvidiaProbe().poll(host, found(host))[only.identity]
    assert (reading.power_w, reading.temperature_c) == (21.0, 46.0)
    assert reading.memory_used_bytes == 501 * MIB
    assert reading.clock_ratio is None


def test_an_unlisted_card_has_the_rates_that_it_tells():
    (made,) = card(
        name="NVIDIA Nonesuch",
        device="ffff",
        bus_bits=384,
        memory_mhz=10501,
        cores=16384,
        sm_mhz=2520,
        capability="8.9",
    ).classes
    assert made.bandwidth_bytes_per_s == pytest.approx(1008e9, rel=0.01)
    rates = dict(made.flops)
    assert rates["fp16"] == pytest.approx(165e12, rel=0.01)
    assert set(rates) == {"fp32", "fp16", "bf16", "fp8", "int8"}
    assert "tflops" in made.recalled


def test_a_divided_card_is_its_instances():
    told = found(recorded("nvidia", "synthetic-a100-mig"))
    parts = [a for a in told.accelerators if a.part]
    assert [a.part for a in parts] == [
        "mig:3g.20gb:2.0",
        "mig:2g.10gb:3.0",
        "mig:1c.2g.10gb:5.0",
        "mig:1c.2g.10gb:5.1",
    ]
    assert all(a.handle.startswith("MIG-") and a.handle == a.uuid for a in parts)
    assert len({a.identity for a in told.accelerators}) == 5
    assert told.accelerators[-1].device_class == "NVIDIA_A100_40G"
    assert sum(a.memory_bytes or 0 for a in parts) <= 40 * GIB
    assert parts[2].memory_bytes == parts[1].memory_bytes // 2 if parts[1].memory_bytes else False


def test_an_instance_has_a_part_of_its_cards_figures():
    told = found(recorded("nvidia", "synthetic-a100-mig"))
    classes = {c.name: c for c in told.classes}
    whole = catalog()["NVIDIA_A100_40G"]
    third = classes["NVIDIA_A100_40G_MIG_3G_20G"]
    assert dict(third.flops)["bf16"] == pytest.approx(dict(whole.flops)["bf16"] * 3 / 7)
    assert third.bandwidth_bytes_per_s < whole.bandwidth_bytes_per_s / 2
    assert third.link_bytes_per_s == 0.0
    assert set(classes) == {a.device_class for a in told.accelerators if a.part}


def test_instances_of_one_card_are_on_the_same_card():
    told = found(recorded("nvidia", "synthetic-a100-mig"))
    parts = {a.identity for a in told.accelerators if a.part}
    assert told.links is not None
    for pair, link in told.links.items():
        assert (link.kind is LinkKind.SAME) == (set(pair) <= parts)


def test_the_watts_of_a_divided_card_are_not_counted_for_each_instance():
    told = found(recorded("nvidia", "synthetic-a100-mig"))
    host = recorded("nvidia", "synthetic-a100-mig")
    now = NvidiaProbe().poll(host, told)
    assert len(now) == 5
    for accelerator in told.accelerators:
        reading = now[accelerator.identity]
        assert (reading.power_w is None) == bool(accelerator.part)
        assert (accelerator.power_limit_w is None) == bool(accelerator.part)
        assert reading.temperature_c == 41.0


def test_a_divided_card_without_instances_is_named():
    host = machine("synthetic-a100-mig")
    facts = told(host)
    facts["gpus"][0]["instances"] = []
    answer = found(telling(host, facts))
    assert len(answer.accelerators) == 1
    assert "no instance" in answer.broken[0].reason
    assert "nvidia-smi mig" in answer.broken[0].hint


def test_broken_cards_have_the_right_health_and_evidence():
    told = found(recorded("nvidia", "synthetic-broken-cards"))
    off, worn, well = told.accelerators
    assert off.health is Health.LOST
    assert "Xid 79: fallen off the bus" in off.evidence
    assert worn.health is Health.DEGRADED
    assert any("remapped" in words for words in worn.evidence)
    assert any("Xid 48" in words for words in worn.evidence)
    assert not any("63" in words or "94" in words for words in worn.evidence)
    assert well.health is Health.HEALTHY, "errors of an application say nothing of the card"
    assert any("0000:81:00.0" in b.reason for b in told.broken)
    assert all(b.hint for b in told.broken)


def test_numa_minus_one_is_unknown():
    told = found(recorded("nvidia", "synthetic-broken-cards"))
    assert {a.numa_node for a in told.accelerators} == {None}


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({"ecc_uncorrected": 3}, "3 uncorrectable ECC errors"),
        ({"remap_failed": True}, "should be replaced"),
        ({"retire_pending": 1}, "waits for a reset to be retired"),
        ({"recovery": 2}, "reboot of the node"),
        ({"recovery": 99}, "recovery action 99"),
        ({"fabric": 1}, "nvidia-fabricmanager"),
        ({"xids": [[119, None, 1.0]]}, "Xid 119"),
        ({"xids": [[74, None, 1.0]]}, "Xid 74: NVLink error"),
    ],
)
def test_what_makes_a_card_degraded(flaw, words):
    (only,) = card(**flaw).accelerators
    assert only.health is Health.DEGRADED
    assert any(words in said for said in only.evidence)


@pytest.mark.parametrize(
    "harmless",
    [
        {"xids": [[13, None, 1.0], [31, None, 1.0], [63, None, 1.0], [94, None, 1.0]]},
        {"xids": [[119, None, 100000.0]]},
        {"xids": [[119, None, 1.0]], "recovery": 0},
        {"xids": "79"},
        {"xids": [[79], None, "x", [79, None, -1.0]]},
        {"ecc_uncorrected": -1},
        {"ecc_uncorrected": "many"},
        {"ecc_uncorrected_ever": 7},
        {"remap_pending": 1},
        {"fabric": 3},
    ],
)
def test_what_does_not(harmless):
    (only,) = card(**harmless).accelerators
    assert (only.health, only.evidence) == (Health.HEALTHY, ())


def test_an_xid_of_an_instance_counts_for_that_instance():
    host = machine("synthetic-a100-mig")
    facts = told(host)
    facts["gpus"][0]["xids"] = [[95, 3, 1.0]]
    ill = [a.part for a in found(telling(host, facts)).accelerators if a.evidence]
    assert ill == ["mig:2g.10gb:3.0"]


def test_a_hot_card_is_slowed_down_and_an_idle_one_is_not():
    now = readings(machine(HGX))
    slow = {i: r.throttled for i, r in now.items() if r.throttled}
    assert list(slow.values()) == [("thermal", "hardware")]
    hot = now[next(iter(slow))]
    assert hot.clock_ratio == pytest.approx(1410 / 1980)
    assert (hot.power_w, hot.utilisation) == (650.0, 1.0)


@pytest.mark.parametrize(
    ("row", "field", "value"),
    [
        ({"power_mw": 4294967295}, "power_w", None),
        ({"power_mw": -5}, "power_w", None),
        ({"temperature_c": 255}, "temperature_c", None),
        ({"busy": 300}, "utilisation", None),
        ({"memory_used": -1}, "memory_used_bytes", None),
        ({"memory_used": 2**64 - 1}, "memory_used_bytes", None),
        ({"memory_used": 0}, "memory_used_bytes", 0),
        ({"sm_mhz": 0}, "clock_ratio", 0.0),
        ({"sm_mhz_highest": 0}, "clock_ratio", None),
        ({"reasons": "x"}, "throttled", ()),
        ({"reasons": 2**64 - 1}, "throttled", ("thermal", "power", "hardware")),
        (
            {"lost": True},
            "faults",
            ("the driver has lost the card: look for its Xid in dmesg, then reboot the node",),
        ),
    ],
)
def test_live_values_out_of_range_are_unknown(row, field, value):
    host = machine(HGX)
    live = told(host, LIVE)
    uuid = next(iter(live["gpus"]))
    live["gpus"][uuid] |= row
    now = readings(telling(host, told(host), live))
    assert getattr(next(r for i, r in now.items() if uuid in i), field) == value


def test_a_card_that_does_not_answer_is_left_out_of_the_poll():
    host = machine(HGX)
    live = told(host, LIVE)
    gone = live["gpus"].popitem()[0]
    now = readings(telling(host, told(host), live))
    assert len(now) == 7
    assert not any(gone in identity for identity in now)


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        "no JSON",
        "[]",
        '{"gpus": 7}',
        '{"gpus": {"GPU-1": 3}}',
        '{"error": {"code": 999}}',
        Completed(rc=124, out="", err="", ended="timeout"),
        Completed(rc=1, out='{"gpus": {', err="", ended="output_cap"),
    ],
)
def test_a_poll_without_an_answer_is_empty(said):
    host = machine(HGX)
    probe = NvidiaProbe()
    before = probe.probe(host, NODE)
    assert isinstance(before, Found)
    rest = {k: v for k, v in host.libraries.items() if k != LIVE}
    silent = replace(host, libraries=rest if said is None else {**rest, LIVE: said})
    assert probe.poll(silent, before) == {}


def test_no_hardware_is_absent_before_anything_is_asked():
    class Untouched(FakeHost):
        def ask(self, library, question, timeout_s):
            raise AssertionError("the library was asked")

    assert outcome(Untouched()) == Absent()
    sound = machine("synthetic-nouveau").but(
        {"/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0": None}
    )
    assert outcome(Untouched(files=sound.files, links=sound.links)) == Absent()


@pytest.mark.parametrize(
    ("name", "reason", "hint"),
    [
        ("synthetic-driver-without-python-package", "package", "pip install nvidia-ml-py"),
        ("synthetic-nouveau", "held by nouveau", "modprobe nvidia"),
        ("synthetic-driver-mismatch", "mismatch", "reboot"),
    ],
)
def test_hardware_without_its_software_is_broken_with_what_mends_it(name, reason, hint):
    told = outcome(recorded("nvidia", name))
    assert isinstance(told, Broken)
    assert reason in told.reason
    assert hint in told.hint


def test_a_card_of_a_virtual_machine_is_not_ours():
    host = machine("synthetic-nouveau")
    place = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/uevent"
    assert outcome(host.but({place: "DRIVER=vfio-pci\nPCI_SLOT_NAME=0000:01:00.0\n"})) == Absent()


def test_a_control_file_that_may_not_be_opened_is_a_matter_of_permission():
    host = machine(HGX)
    told = outcome(replace(host, denied=frozenset({"/dev/nvidiactl"})))
    assert isinstance(told, Broken)
    assert "usermod" in told.hint


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Segmentation fault",
        "[1, {}, null]",
        '{"gpus": "many"}',
        "\x1b[31m{\x1b[0m",
        "\ufffd\ufffd\x00",
        '{"error": "x"}',
        '{"error": {"code": 12, "text": "LibraryNotFound"}}',
        Completed(rc=124, out="", err="", ended="timeout"),
        Completed(rc=1, out="{" * 1000, err="", ended="output_cap"),
        Completed(rc=1, out="", err="ended with status -11"),
    ],
)
def test_an_answer_that_makes_no_sense_is_broken_with_a_hint(said):
    host = machine(HGX)
    told = outcome(replace(host, libraries={FACTS: said}))
    assert isinstance(told, Broken)
    assert told.reason
    assert told.hint


@pytest.mark.parametrize("memory", [-1, 0, 2**64, 2**64 - 1, "lots", None, [], True])
def test_memory_that_cannot_be_is_unknown(memory):
    (only,) = card(memory_total=memory).accelerators
    assert only.memory_bytes is None
    assert only.device_class == "NVIDIA_H100_80G", "the name is enough"


@pytest.mark.parametrize(
    "odd",
    [
        {"name": None},
        {"name": "\x1b[31mNVIDIA H100 80GB HBM3\x1b[0m"},
        {"serial": 17},
        {"pci": "nowhere"},
        {"power_limit_mw": 2**32 - 1, "slowdown_c": 255, "numa": -1},
        {"nvlinks": [{"pci": 3, "kind": "x", "links": -2}, None, 7]},
        {"nvlinks": 18, "instances": "none", "mig": "yes"},
        {"cores": "all", "bus_bits": -1, "memory_mhz": 2**70},
    ],
)
def test_odd_fields_cost_no_more_than_themselves(odd):
    (only,) = card(**odd).accelerators
    assert only.uuid == "GPU-01000100-0000-0000-0000-000000000000"
    assert only.power_limit_w in (700.0, None)
    assert "\x1b" not in only.product


def test_two_cards_of_one_name_are_one_and_a_complaint():
    host = machine(HGX)
    facts = told(host)
    facts["gpus"][1]["uuid"] = facts["gpus"][0]["uuid"]
    answer = found(telling(host, facts))
    assert len(answer.accelerators) == 7
    assert any("call themselves" in b.reason for b in answer.broken)


def test_a_driver_without_any_card_is_no_hardware():
    host = FakeHost(files={"/proc/driver/nvidia/version": "x", "/dev/nvidiactl": ""})
    assert outcome(telling(host, {"gpus": [], "driver": "580"})) == Absent()
