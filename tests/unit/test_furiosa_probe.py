"""The RNGD probe on recorded machines, and on what is missing or odd in them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.hosts import FakeHost, in_memory, recorded

from actors.probe import Absent, Broken, Found
from actors.probes.furiosa import FuriosaProbe
from actors.readers.rngd import card, live, sensors
from actors.readers.rngd_parts import part_named, parts
from actors.tools import Completed
from placement.catalog import catalog, engines_for
from placement.devices import Health
from placement.ids import NodeId
from placement.interconnect import LinkKind, bonds

NODE = NodeId("n")
CLASS = "/sys/devices/virtual/rngd_mgmt"
FIRST = "/sys/devices/pci0000:23/0000:23:01.0/0000:25:00.0/0000:26:00.0/0000:27:00.0"
MIB = 2**20


def found(host) -> Found:
    outcome = FuriosaProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def four(**changes) -> FakeHost:
    return replace(in_memory("furiosa", "synthetic-4-cards"), **changes)


def polled(host, *, times=1):
    probe = FuriosaProbe()
    outcome = probe.probe(host, NODE)
    for _ in range(times):
        readings = probe.poll(host, outcome)
    return [readings.get(a.identity) for a in outcome.accelerators]


def test_a_card_with_everything_that_it_tells():
    first, second, *_ = found(recorded("furiosa", "synthetic-4-cards")).accelerators
    assert first.identity == "furiosa:5A4D0000-0708-4606-8000-000000000000@0000:27:00.0"
    assert (first.device_class, first.handle, first.part) == ("FURIOSA_RNGD", "npu:0", "")
    assert (first.serial, first.board) == ("RNG2600000000Q", "RNG2600000000Q")
    assert first.memory_bytes == 51_002_736_640
    assert (first.numa_node, first.power_limit_w) == (0, 180.0)
    assert (first.driver, first.firmware) == ("2026.3.0", "2026.3.0")
    assert (first.health, first.evidence) == (Health.HEALTHY, ())
    assert dict(first.notes) == {"pcie": "32.0 GT/s x16", "governor": "performance"}
    assert (second.handle, second.pci) == ("npu:1", "0000:2a:00.0")
    assert second.notes == ()


def test_memory_of_an_rngd_is_the_whole_of_its_class():
    device_class = catalog()["FURIOSA_RNGD"]
    assert device_class.memory_bytes == pytest.approx(51_002_736_640 * 0.95)


def test_pairs_below_one_switch_are_nearer_than_cards_of_one_socket():
    outcome = found(recorded("furiosa", "synthetic-4-cards"))
    joined = [(b.link.kind, len(b.members)) for b in bonds(outcome.links or {})]
    assert joined.count((LinkKind.SWITCH, 2)) == 2
    assert {kind for kind, _ in joined} == {LinkKind.SWITCH, LinkKind.NUMA}
    assert len(outcome.links or {}) == 6


def test_what_a_busy_and_an_idle_card_do():
    busy, idle, *_ = polled(recorded("furiosa", "synthetic-4-cards"))
    assert busy.memory_used_bytes == 8 * 2**30, "four fused PEs repeat one allocation"
    assert busy.utilisation is None, "one look at a counter tells no rate"
    assert (busy.temperature_c, busy.power_w, busy.clock_ratio) == (58.25, 95.0, 1.0)
    assert (idle.memory_used_bytes, idle.utilisation) == (0, 0.0)
    assert (idle.temperature_c, idle.power_w) == (40.98, 38.0)
    assert (idle.throttled, idle.faults) == ((), ()), "bit 0 is idling"


def test_a_recording_stands_still_and_tells_no_rate():
    assert polled(recorded("furiosa", "synthetic-4-cards"), times=3)[0].utilisation is None


@pytest.mark.parametrize(
    ("cycles", "tasks", "expected"),
    [
        (1000, 500, 0.25),
        (1000, 1000, 0.5),
        (1000, 0, 0.0),
        (1000, 1001, None),
        (0, 0, None),
        (-1, -1, None),
    ],
)
def test_utilisation_is_tasks_cycles_of_passed_cycles_over_all_eight(cycles, tasks, expected):
    """Four PEs of eight are held; the counters of each move by so much."""
    before = four()
    probe = FuriosaProbe()
    outcome = probe.probe(before, NODE)
    probe.poll(before, outcome)
    text = f"CycleCount: 0x{(1 << 40) + cycles:x}\nTaskCycleCount: 0x{(1 << 39) + tasks:x}\n"
    after = before.but({f"{CLASS}/rngd!npu0pe{pe}/metrics": text for pe in range(4)})
    reading = probe.poll(after, outcome)[outcome.accelerators[0].identity]
    assert reading.utilisation == expected


@pytest.mark.parametrize(
    ("occupancy", "used", "expected"),
    [
        ("0\n" * 8, {}, 0),
        ("1\n" + "0\n" * 7, {0: (1, 100)}, 100 * MIB),
        ("1\n1\n" + "0\n" * 6, {0: (1, 100), 1: (1, 30)}, 130 * MIB),
        ("1\n1\n" + "0\n" * 6, {0: (2, 100), 1: (2, 100)}, 100 * MIB),
        ("1\n" * 8, dict.fromkeys(range(8), (8, 700)), 700 * MIB),
        ("1\n" + "0\n" * 7, {0: (1, 7000)}, None),
        ("1\n" + "0\n" * 7, {}, None),
        ("2\n" + "0\n" * 7, {0: (1, 100)}, None),
        ("", {0: (1, 100)}, None),
    ],
)
def test_used_memory_counts_each_allocation_once(occupancy, used, expected):
    texts: dict[str, str | None] = {
        f"{CLASS}/rngd!npu0pe{pe}/alloc_status": None for pe in range(4)
    }
    texts[f"{CLASS}/rngd!npu0mgmt/pe_occupancy"] = occupancy
    for pe, (fused, mib) in used.items():
        texts[f"{CLASS}/rngd!npu0pe{pe}/alloc_status"] = (
            f"dram_capacity: 0x{6_375_342_080 * fused:x}\ndram_usage: 0x{mib * MIB:x}\n"
            "shared_capacity: 0x0\nshared_usage: 0x0\n"
        )
    assert polled(four().but(texts))[0].memory_used_bytes == expected


def test_a_dead_card_is_lost_and_a_hot_one_says_why_it_is_slow():
    host = recorded("furiosa", "synthetic-dead-and-throttled")
    dead, hot, well = found(host).accelerators
    assert dead.health is Health.LOST
    assert "device_state 3" in dead.evidence[0]
    assert (hot.health, well.health) == (Health.HEALTHY, Health.HEALTHY)
    readings = polled(host)
    assert readings[0].faults == dead.evidence
    assert readings[1].throttled == ("thermal", "hardware")
    assert readings[2].throttled == ()


def test_a_card_is_as_fast_as_its_slowest_pe():
    clocks = "1000000000\n" * 7 + "250000000\n"
    host = four().but({f"{CLASS}/rngd!npu1mgmt/npu_clocks": clocks})
    assert [r.clock_ratio for r in polled(host)] == [1.0, 0.25, 1.0, 1.0]


def test_an_index_that_moved_changes_the_handle_and_nothing_else():
    before = found(recorded("furiosa", "synthetic-renumbered-before")).accelerators
    after = found(recorded("furiosa", "synthetic-renumbered")).accelerators
    assert [a.identity for a in before] == [a.identity for a in after]
    assert [a.handle for a in before] == ["npu:0", "npu:3"]
    assert [a.handle for a in after] == ["npu:0", "npu:2"]


def test_a_poll_never_takes_one_card_for_another():
    probe = FuriosaProbe()
    outcome = probe.probe(recorded("furiosa", "synthetic-renumbered-before"), NODE)
    readings = probe.poll(recorded("furiosa", "synthetic-renumbered"), outcome)
    assert set(readings) == {outcome.accelerators[0].identity}


def test_another_instance_can_poll_what_one_found():
    host = recorded("furiosa", "synthetic-4-cards")
    readings = FuriosaProbe().poll(host, found(host))
    assert [r.temperature_c for r in readings.values()] == [58.25, 40.98, 40.98, 40.98]


def test_cards_without_a_driver_are_named_with_what_to_install():
    outcome = FuriosaProbe().probe(recorded("furiosa", "synthetic-no-driver"), NODE)
    assert isinstance(outcome, Broken)
    assert "0000:27:00.0 (1ed2:0001)" in outcome.reason
    assert "furiosa-driver-rngd" in outcome.hint


def test_a_card_that_the_driver_lost_is_named_beside_those_that_it_shows():
    gone = dict.fromkeys([f"{CLASS}/rngd!npu0mgmt"])
    host = four().but(gone, links={})
    links = {k: v for k, v in four().links.items() if "npu0mgmt" not in k}
    outcome = found(replace(host, links=links))
    assert [a.handle for a in outcome.accelerators] == ["npu:1", "npu:2", "npu:3"]
    assert "0000:27:00.0" in outcome.broken[0].reason


def test_nonsense_becomes_unknown_and_is_reported():
    host = recorded("furiosa", "synthetic-garbage")
    outcome = found(host)
    (only,) = outcome.accelerators
    assert (only.pci, only.identity) == ("0000:27:00.0", "furiosa:@0000:27:00.0")
    assert (only.serial, only.uuid, only.numa_node, only.power_limit_w) == (None,) * 4
    assert only.health is Health.DEGRADED
    reasons = " ".join(b.reason for b in outcome.broken)
    assert "npu1 is shown" in reasons
    assert "npu2 and npu0 are both at 0000:27:00.0" in reasons
    assert all(b.hint for b in outcome.broken)
    (reading,) = polled(host)
    assert (reading.temperature_c, reading.power_w, reading.clock_ratio) == (None,) * 3
    assert (reading.memory_used_bytes, reading.utilisation, reading.throttled) == (None, None, ())


INFO = "furiosa-smi_info_--format_json"


def test_the_vendors_library_is_asked_where_the_drivers_files_changed_their_form():
    told = [{"index": 1, "pci": "0000:2a:00.0", "uuid": "U-1", "serial": "S-1", "alive": False}]
    host = in_memory("furiosa", "synthetic-garbage")
    device = found(replace(host, libraries={"furiosa_cards": json.dumps(told)})).accelerators[1]
    assert (device.identity, device.handle) == ("furiosa:U-1@0000:2a:00.0", "npu:1")
    assert device.health is Health.LOST


def test_its_tool_is_asked_where_there_is_no_library():
    told = """[{"arch": "rngd", "dev_name": "npu1", "device_uuid": "C0413086-0708-4606",
               "device_sn": "RNG26040100181Q", "firmware": "2026.3.0, 2d3f72a", "pci_bdf": "0000:2a:00.0"}]"""
    host = in_memory("furiosa", "synthetic-garbage")
    device = found(replace(host, tools={INFO: f"warning: old\n{told}"})).accelerators[1]
    assert device.identity == "furiosa:C0413086-0708-4606@0000:2a:00.0"
    assert (device.serial, device.firmware) == ("RNG26040100181Q", "2026.3.0")
    assert device.health is Health.HEALTHY


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "\x1b[31m[1, null, {}]",
        '[{"index": -1, "pci": "0000:2a:00.0"}, {"index": 1, "pci": 7}]',
        Completed(rc=124, out="", err="", ended="timeout"),
        Completed(rc=1, out="[" * 10000, err="", ended="output_cap"),
        Completed(rc=-11, out="", err="ended with status -11"),
    ],
)
def test_a_library_or_tool_that_fails_leaves_the_rest_as_it_is(answer):
    host = in_memory("furiosa", "synthetic-garbage")
    for asked in ({"libraries": {"furiosa_cards": answer}}, {"tools": {INFO: answer}}):
        assert found(replace(host, **asked)) == found(host)


@pytest.mark.parametrize("name", ["synthetic-4-cards", "synthetic-no-driver"])
def test_neither_is_asked_where_the_driver_tells(name):
    class Quiet(FakeHost):
        def ask(self, library, question, timeout_s):
            raise AssertionError(library)

        def run(self, argv, timeout_s):
            raise AssertionError(argv)

    base = in_memory("furiosa", name)
    FuriosaProbe().probe(Quiet(files=base.files, links=base.links), NODE)


def test_a_card_that_may_not_be_opened_takes_no_work():
    outcome = found(four(denied=frozenset({"/dev/rngd/npu1pe0"})))
    healths = [a.health for a in outcome.accelerators]
    assert healths == [Health.HEALTHY, Health.DEGRADED, Health.HEALTHY, Health.HEALTHY]
    assert outcome.broken[0].hint.startswith("usermod -aG furiosa")


def test_a_container_without_the_device_files_says_so():
    outcome = found(four().but({"/dev/rngd": None}))
    assert {a.health for a in outcome.accelerators} == {Health.DEGRADED}
    assert "--device /dev/rngd" in outcome.broken[0].hint


@pytest.mark.parametrize(("size", "handles"), [("4", ["npu:0:0-3", "npu:0:4-7"]), ("8", ["npu:0"])])
def test_parts_of_a_card(size, handles):
    outcome = found(four(variables={"SHARDYARD_FURIOSA_PES": size}))
    assert [a.handle for a in outcome.accelerators[: len(handles)]] == handles


def test_half_a_card_has_half_of_everything_and_its_own_class():
    outcome = found(four(variables={"SHARDYARD_FURIOSA_PES": "4"}))
    first, second, *_ = outcome.accelerators
    (device_class,) = outcome.classes
    card_class = catalog()["FURIOSA_RNGD"]
    assert first.device_class == device_class.name == "FURIOSA_RNGD_4PE"
    assert device_class.memory_bytes == card_class.memory_bytes // 2
    assert device_class.bandwidth_bytes_per_s == card_class.bandwidth_bytes_per_s / 2
    assert "furiosa" in [e.name for e in engines_for(device_class, emulated=False)]
    assert first.memory_bytes == 51_002_736_640 // 2
    assert (first.part, first.identity[-7:]) == ("pe:0-3", "/pe:0-3")
    assert first.board == second.board
    assert (outcome.links or {})[(first.identity, second.identity)].kind is LinkKind.SAME
    assert first.power_limit_w is None, "the limit is the card's"


def test_a_part_tells_its_own_memory_and_not_the_cards_power():
    host = four(variables={"SHARDYARD_FURIOSA_PES": "4"})
    first, second, *_ = polled(host)
    assert (first.memory_used_bytes, second.memory_used_bytes) == (8 * 2**30, 0)
    assert (first.power_w, second.power_w) == (None, None)
    assert first.temperature_c == second.temperature_c == 58.25
    assert second.utilisation == 0.0


@pytest.mark.parametrize("size", ["3", "0", "-4", "many", "16", "4.0"])
def test_a_size_that_cannot_be_fused_is_reported_and_cards_stay_whole(size):
    outcome = found(four(variables={"SHARDYARD_FURIOSA_PES": size}))
    assert [a.handle for a in outcome.accelerators] == ["npu:0", "npu:1", "npu:2", "npu:3"]
    assert "SHARDYARD_FURIOSA_PES" in outcome.broken[0].reason


def test_a_later_product_has_its_memory_and_class():
    device = found(four().but({f"{FIRST}/device": "0x0002\n"})).accelerators[0]
    assert (device.product, device.device_class) == ("RNGD+", "FURIOSA_RNGD_PLUS")
    assert device.memory_bytes == 76_772_540_416


def test_a_product_that_nobody_listed_has_to_be_declared():
    outcome = found(four().but({f"{FIRST}/device": "0x0007\n"}))
    assert len(outcome.accelerators) == 3
    assert all(a.device_class in catalog() for a in outcome.accelerators)
    assert "RNGD 0007" in outcome.broken[0].reason
    assert "declare it" in outcome.broken[0].hint


def test_a_card_whose_pci_function_is_hidden_is_still_offered():
    host = four().but({"/sys/devices/pci0000:23": None})
    host = replace(host, links={k: v for k, v in host.links.items() if "/bus/pci/" not in k})
    first = found(host).accelerators[0]
    assert (first.pci, first.numa_node, first.power_limit_w) == ("0000:27:00.0", None, None)
    assert first.device_class == "FURIOSA_RNGD", "the driver calls it RNGD"
    assert polled(host)[0].temperature_c is None


def test_a_virtual_function_without_driver_is_somebody_elses():
    base = in_memory("furiosa", "synthetic-no-driver")
    physfn = {f"{path}/physfn": "/sys/devices" for path in base.links.values()}
    outcome = FuriosaProbe().probe(replace(base, links={**physfn, **base.links}), NODE)
    assert outcome == Found()


def test_other_vendors_machines_have_none():
    assert FuriosaProbe().probe(FakeHost(), NODE) == Absent()
    assert FuriosaProbe().probe(recorded("cpu", "captured-epyc-2cpu"), NODE) == Absent()


def test_an_idle_card_costs_a_poll_few_files():
    class Counted(FakeHost):
        reads = 0

        def read(self, path):
            type(self).reads += 1
            return super().read(path)

    base = four()
    host = Counted(files=base.files, links=base.links)
    one = card(host, 1)
    assert one is not None
    places = sensors(host, one.address)
    Counted.reads = 0
    live(host, one, places, 6_375_342_080)
    assert Counted.reads <= 6


def test_the_parts_of_a_card_are_all_of_it():
    for size in (1, 2, 4, 8):
        made = parts(size)
        assert [pe for p in made for pe in range(p.first, p.last + 1)] == list(range(8))
        assert [part_named(p.name) for p in made] == list(made)
