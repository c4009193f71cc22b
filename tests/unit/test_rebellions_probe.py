"""The probe of Rebellions' NPUs on recorded machines, and on what goes wrong with tool, driver and daemon."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from support.hosts import FakeHost, in_memory, recorded

from actors.probe import Absent, Broken, Found
from actors.probes.rebellions import RebellionsProbe
from actors.tools import Completed
from placement.devices import Health
from placement.ids import NodeId
from placement.interconnect import LinkKind
from placement.units import GIB

NODE = NodeId("n")
CAPTURED = "captured-8x-ca22-loaded"
ATOM_MAX = "synthetic-atom-max-2x4"


def found(host, probe=None) -> Found:
    outcome = (probe or RebellionsProbe()).probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def look_and_poll(host):
    probe = RebellionsProbe()
    outcome = found(host, probe)
    readings = probe.poll(host, outcome)
    return outcome, {
        a.handle: readings[a.identity] for a in outcome.accelerators if a.identity in readings
    }


def by_handle(outcome: Found):
    return {a.handle: a for a in outcome.accelerators}


def tool_says(host: FakeHost, change) -> FakeHost:
    """The same machine, its tool's document changed in place by `change`."""
    ((name, text),) = host.tools.items()
    said = json.loads(text)
    change(said)
    return host.but({}, tools={name: json.dumps(said)})


def test_captured_cards_under_load():
    outcome = found(recorded("rebellions", CAPTURED))
    cards = by_handle(outcome)
    assert sorted(cards) == [str(k) for k in range(8)]
    assert len({a.identity for a in outcome.accelerators}) == 8, "the tool's own index repeats"
    assert {a.device_class for a in outcome.accelerators} == {"RBLN_ATOM_PLUS"}
    third = cards["2"]
    assert third.identity == "rebellions:918c99a4-958a-42e1-832a-f80e2dd4c130@0000:63:00.0"
    assert (third.serial, third.numa_node, third.memory_bytes) == (
        "0000000022513360",
        0,
        16877879296,
    )
    assert (third.driver, third.firmware) == ("3.0.0", "3.0.0")
    assert dict(third.notes) == {"pcie": "32.0GT/s x16"}
    assert third.health is Health.HEALTHY
    assert third.temperature_limit_c == 85.0
    assert outcome.broken == ()


def test_captured_readings():
    _, readings = look_and_poll(recorded("rebellions", CAPTURED))
    busy = readings["5"]
    assert busy.power_w == pytest.approx(37.257088)
    assert busy.temperature_c == 45.0
    assert busy.utilisation == pytest.approx(0.044)
    assert busy.memory_used_bytes == 1545601024
    assert busy.throttled == busy.faults == ()
    assert readings["1"].memory_used_bytes == 0, "0 is known, not unknown"


def test_cards_without_a_pci_tree_are_joined_by_memory_domain():
    outcome = found(recorded("rebellions", CAPTURED))
    cards = by_handle(outcome)
    links = outcome.links or {}
    kinds = {frozenset(pair): link.kind for pair, link in links.items()}
    assert kinds[frozenset((cards["0"].identity, cards["3"].identity))] is LinkKind.NUMA
    assert kinds[frozenset((cards["0"].identity, cards["7"].identity))] is LinkKind.SYSTEM
    assert len(links) == 28


def test_dies_of_a_card_share_its_power_and_are_one_board():
    outcome, readings = look_and_poll(recorded("rebellions", ATOM_MAX))
    assert {a.device_class for a in outcome.accelerators} == {"RBLN_ATOM_MAX"}
    first, second = [readings[str(k)].power_w for k in (0, 4)]
    assert first == pytest.approx(341.5 / 4)
    assert second == pytest.approx(42.8 / 4)
    assert sum(readings[str(k)].power_w for k in range(4)) == pytest.approx(341.5)
    links = outcome.links or {}
    assert sum(link.kind is LinkKind.SAME for link in links.values()) == 2 * 6
    assert sum(link.kind is LinkKind.SYSTEM for link in links.values()) == 16
    assert dict(by_handle(outcome)["0"].notes)["rsd group"] == "1"
    assert "rsd group" not in dict(by_handle(outcome)["4"].notes), "0 is no group"


def test_dies_that_tell_no_board_are_joined_by_the_switch_and_have_no_power():
    def forget(said):
        for device in said["devices"]:
            device["sid"] = "0000000000000000"

    outcome, readings = look_and_poll(tool_says(in_memory("rebellions", ATOM_MAX), forget))
    kinds = [link.kind for link in (outcome.links or {}).values()]
    assert kinds.count(LinkKind.SWITCH) == 2 * 6
    assert {r.power_w for r in readings.values()} == {None}
    assert {a.serial for a in outcome.accelerators} == {None}


def test_a_driver_of_sdk_1():
    outcome, readings = look_and_poll(recorded("rebellions", "synthetic-sdk1-2x-ca12"))
    assert [(a.product, a.handle, a.driver) for a in outcome.accelerators] == [
        ("RBLN-CA12", "0", "1.2.92"),
        ("RBLN-CA12", "1", "1.2.92"),
    ]
    assert readings["0"].power_w == pytest.approx(43.9)


def test_a_warning_before_the_document_and_nonsense_inside():
    outcome, readings = look_and_poll(recorded("rebellions", "synthetic-warning-before-json"))
    good, odd = outcome.accelerators
    assert readings["0"].throttled == ("thermal",)
    assert (odd.uuid, odd.serial, odd.memory_bytes, odd.numa_node) == (None, None, None, None)
    assert odd.identity == "rebellions:@0000:04:00.0"
    nothing = readings["1"]
    assert (nothing.power_w, nothing.temperature_c, nothing.utilisation) == (None, None, None)
    assert nothing.memory_used_bytes is None
    assert good.identity != odd.identity


def test_a_tool_that_hangs_leaves_the_drivers_word():
    outcome, readings = look_and_poll(recorded("rebellions", "synthetic-tool-hangs"))
    first, second = outcome.accelerators
    assert (first.product, first.device_class) == ("RBLN-CR13", "RBLN_REBEL_QUAD")
    assert first.memory_bytes == 140 * GIB
    assert first.temperature_limit_c is None, "nobody said"
    assert first.health is Health.HEALTHY
    assert second.health is Health.DEGRADED
    assert "faulty" in second.evidence[0]
    assert (first.handle, second.handle) == ("0", "1"), (
        "rbln0 and rbln2 are the first and the second here"
    )
    assert "did not end in time" in outcome.broken[0].reason
    assert "rbln-smi -j" in outcome.broken[0].hint
    assert readings["1"].faults == second.evidence


def test_abnormal_states_are_told_with_evidence():
    outcome, readings = look_and_poll(recorded("rebellions", "synthetic-one-abnormal"))
    cards = by_handle(outcome)
    assert sorted(cards) == ["1", "2"], "rbln0 may not be opened, which moves no other handle"
    assert cards["1"].health is Health.DEGRADED
    assert cards["1"].evidence == ("rbln-smi: status abnormal",)
    assert "P12" in readings["2"].faults[0]
    assert "rbln0" in outcome.broken[0].reason
    assert "permission" in outcome.broken[0].reason
    assert "0000:06:00.0" in outcome.broken[1].reason, "nobody tells what rbln3 is"
    assert "declare it" in outcome.broken[1].hint


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (Completed(rc=0, out="", err=""), "nothing was printed"),
        (Completed(rc=0, out="{" * 4_000_000, err="", ended="output_cap"), "without end"),
        (Completed(rc=-9, out='{"devices": []}', err="", ended="timeout"), "in time"),
        (Completed(rc=3, out="", err="\x1b[31mno device\x1b[0m"), "no device"),
        (Completed(rc=0, out="\ufffd\ufffd{}", err=""), "without a list"),
        (Completed(rc=0, out='{"devices": {"0": 1}}', err=""), "without a list"),
    ],
)
def test_a_tool_without_an_answer_is_named(answer, word):
    host = in_memory("rebellions", ATOM_MAX).but({}, tools={"rbln-smi_-j": answer})
    outcome = found(host)
    assert len(outcome.accelerators) == 8
    assert word in outcome.broken[0].reason
    assert outcome.broken[0].hint
    assert {a.device_class for a in outcome.accelerators} == {"RBLN_ATOM_MAX"}, "by PCI id"


def test_identities_outlive_a_tool_that_fails_once():
    host = in_memory("rebellions", ATOM_MAX)
    probe = RebellionsProbe()
    before = found(host, probe)
    after = found(host.but({}, tools={}), probe)
    assert [a.identity for a in after.accelerators] == [a.identity for a in before.accelerators]
    assert "not installed" in after.broken[0].reason


def test_identities_follow_the_card_when_names_change():
    host = in_memory("rebellions", CAPTURED)
    names = {"rbln0": "rbln2", "rbln2": "rbln0"}
    folder = "/sys/class/rebellions"

    def swap(said):
        for device in said["devices"]:
            device["device"] = names.get(device["device"], device["device"])

    uevents = {n: host.files[f"{folder}/{n}/device/uevent"] for n in names}
    swapped = tool_says(host, swap).but(
        {f"{folder}/{names[n]}/device/uevent": text for n, text in uevents.items()}
    )
    probe = RebellionsProbe()
    before = {a.identity: a.handle for a in found(host, probe).accelerators}
    after = {a.identity: a.handle for a in found(swapped, probe).accelerators}
    assert before.keys() == after.keys()
    moved = "rebellions:918c99a4-958a-42e1-832a-f80e2dd4c130@0000:63:00.0"
    assert (before[moved], after[moved]) == ("2", "0")


def test_a_row_of_another_address_is_not_the_cards():
    def move(said):
        said["devices"][0]["pci"]["bus_id"] = "0000:99:00.0"

    outcome = found(tool_says(in_memory("rebellions", CAPTURED), move))
    assert not any("0000:03:00.0" in a.identity for a in outcome.accelerators)
    assert "(rebellions:@0000:03:00.0) is there, but tells no memory" in outcome.broken[0].reason


def test_duplicate_uuids_stay_two_devices():
    def repeat(said):
        for device in said["devices"]:
            device["uuid"] = "3a5d3eec-4b2e-4fa0-afa0-192c9b99a7c2"

    outcome = found(tool_says(in_memory("rebellions", CAPTURED), repeat))
    assert len({a.identity for a in outcome.accelerators}) == 8


def test_a_container_has_only_the_cards_whose_files_it_got():
    gone = {f"/dev/rbln{k}": None for k in (0, 1, 2, 3)}
    outcome = found(in_memory("rebellions", CAPTURED).but(gone))
    assert [(a.handle, a.pci) for a in outcome.accelerators] == [
        ("0", "0000:83:00.0"),
        ("1", "0000:84:00.0"),
        ("2", "0000:e3:00.0"),
        ("3", "0000:e4:00.0"),
    ]
    assert outcome.broken == ()


def test_no_device_file_at_all_says_what_to_do():
    host = in_memory("rebellions", CAPTURED).but({"/dev": None})
    outcome = RebellionsProbe().probe(host, NODE)
    assert isinstance(outcome, Broken)
    assert "device file" in outcome.reason
    assert "--device" in outcome.hint


def test_no_permission_says_what_to_do():
    denied = frozenset(f"/dev/rbln{k}" for k in range(8))
    outcome = RebellionsProbe().probe(
        in_memory("rebellions", CAPTURED).but({}, denied=denied), NODE
    )
    assert isinstance(outcome, Broken)
    assert "permission" in outcome.reason
    assert "/dev/rbln0" in outcome.hint


def test_a_physical_function_with_virtual_ones_is_left_out():
    place = "/sys/class/rebellions/rbln0/device/sriov_numvfs"
    host = in_memory("rebellions", CAPTURED)
    assert len(found(host.but({place: "2\n"})).accelerators) == 7
    assert len(found(host.but({place: "0\n"})).accelerators) == 8


def test_hardware_without_a_driver_is_broken_and_without_hardware_absent():
    folder = "/sys/bus/pci/devices/0000:03:00.0"
    ids = {
        f"{folder}/vendor": "0x1eff\n",
        f"{folder}/device": "0x1250\n",
        f"{folder}/class": "0x120000\n",
    }
    outcome = RebellionsProbe().probe(FakeHost(ids), NODE)
    assert isinstance(outcome, Broken)
    assert "driver" in outcome.reason
    assert "install" in outcome.hint
    assert (
        RebellionsProbe().probe(FakeHost({**ids, f"{folder}/vendor": "0x10de\n"}), NODE) == Absent()
    )


def test_a_product_that_nobody_listed_gets_a_class_of_its_own():
    def rename(said):
        for device in said["devices"]:
            device["name"], device["pci"]["dev"] = "RBLN-CR23", "0x2230"
            device["memory"]["total"] = str(280 * GIB)

    outcome = found(tool_says(in_memory("rebellions", CAPTURED), rename))
    (added,) = outcome.classes
    assert (
        {a.device_class for a in outcome.accelerators}
        == {added.name}
        == {"REBELLIONS_RBLN_CR23_280G"}
    )


def test_contexts_of_any_type_change_nothing():
    host = in_memory("rebellions", CAPTURED)
    plain = found(host)
    for contexts in (None, "busy", [1, None, {"npu": "3", "pid": None}], {"0": [{"npu": 0}]}):
        assert found(tool_says(host, lambda said, c=contexts: said.update(contexts=c))) == plain


def test_polling_reads_sysfs_alone_where_the_driver_has_a_sensor():
    monitor = "/sys/class/rebellions/rbln{}/device/hwmon/hwmon1/temp1_input"
    host = in_memory("rebellions", CAPTURED)
    probe = RebellionsProbe()
    outcome = found(host, probe)
    sensors = {monitor.format(k): f"{40 + k}000\n" for k in range(8)}
    used = {f"/sys/class/rebellions/rbln{k}/dram_used": f"{k}\n" for k in range(8)}
    readings = probe.poll(host.but({**sensors, **used}, tools={}), outcome)
    assert [readings[a.identity].temperature_c for a in outcome.accelerators] == list(range(40, 48))
    assert [readings[a.identity].memory_used_bytes for a in outcome.accelerators] == list(range(8))


def test_a_card_that_is_gone_is_left_out_of_a_poll():
    host = in_memory("rebellions", ATOM_MAX)
    probe = RebellionsProbe()
    outcome = found(host, probe)
    left = host.but({"/sys/class/rebellions/rbln7": None}, tools={})
    links = {k: v for k, v in left.links.items() if not k.endswith("class/rebellions/rbln7")}
    readings = probe.poll(left.but({}, links=links), outcome)
    assert len(readings) == 7


def test_every_pair_is_linked_once():
    for name in (CAPTURED, ATOM_MAX):
        outcome = found(recorded("rebellions", name))
        mine = {a.identity for a in outcome.accelerators}
        assert {frozenset(p) for p in outcome.links or {}} == {
            frozenset(p) for p in combinations(mine, 2)
        }
