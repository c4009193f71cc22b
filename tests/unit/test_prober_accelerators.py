"""From accelerators that probes find to devices that keep their place, their health and their islands."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from support.hosts import FakeHost

from actors.health import LOST_AFTER_S, PROBATION_S, SILENT_AFTER_S
from actors.names import NODE_ENV, PROBES_ENV, RECORDING_ENV, STAND_IN_ENV
from actors.positions import Positions
from actors.probe import Absent, Accelerator, Broken, Found
from actors.prober import LOOK_PERIOD_S, RETRY_S, Prober, prober_of_this_node
from actors.probes.pci_scan import PciScanProbe
from actors.product import unlisted
from actors.report import NodeReport, Reading
from placement.devices import Device, Health, Kind
from placement.ids import DeviceId, NodeId
from placement.interconnect import Interconnect, LinkKind

NODE = NodeId("n")
NVLINK = Interconnect(kind=LinkKind.DIRECT, lanes=18, bytes_per_s=450e9)


def card(number: int, **changes) -> Accelerator:
    whole = Accelerator(
        family="furiosa",
        product="RNGD",
        device_class="FURIOSA_RNGD",
        handle=f"npu:{number}",
        serial=f"RNG{number}",
        pci=f"0000:{number + 1:02x}:00.0",
        memory_bytes=51_002_736_640,
    )
    return dataclasses.replace(whole, **changes)


class Cards:
    """A vendor's probe whose answer the test sets; `watched` is what its folder lists."""

    name = "furiosa"
    watches = ("/cards",)

    def __init__(self, *cards: Accelerator, **found) -> None:
        self.found: object = Found(accelerators=cards, **found)
        self.readings: object = {}
        self.looks = 0

    def probe(self, host, node):
        self.looks += 1
        return self.found

    def poll(self, host, found):
        return self.readings

    def shows(self, *cards: Accelerator, **found) -> None:
        self.found = Found(accelerators=cards, **found)


class Node:
    """A node with hand-moved time."""

    def __init__(self, *probes, host: FakeHost | None = None, **options) -> None:
        self.now = 0.0
        self.prober = Prober(host or FakeHost(), NODE, probes, clock=lambda: self.now, **options)

    def after(self, seconds: float) -> NodeReport:
        self.now += seconds
        return self.prober.poll()


def by_id(report: NodeReport) -> dict[str, tuple[str, str]]:
    return {d.id: (d.identity, d.health.value) for d in report.devices}


def test_an_accelerator_becomes_a_device_of_its_class_with_facts():
    report = Node(Cards(card(0, firmware="1.2"))).after(0)
    (device,) = report.devices
    assert (device.id, device.device_class, device.handle) == ("n/0", "FURIOSA_RNGD", "npu:0")
    assert device.identity == "furiosa:RNG0@0000:01:00.0"
    (facts,) = report.facts
    assert (facts.device, facts.serial, facts.firmware) == ("n/0", "RNG0", "1.2")


def test_positions_follow_the_bus_and_not_the_vendors_index():
    report = Node(Cards(card(2), card(0), card(1))).after(0)
    assert [d.handle for d in report.devices] == ["npu:0", "npu:1", "npu:2"]


def test_cards_that_are_renumbered_keep_their_places_and_get_new_handles():
    cards = Cards(card(0), card(1))
    node = Node(cards)
    node.after(0)
    cards.shows(card(0, handle="npu:1"), card(1, handle="npu:0"))
    report = node.after(LOOK_PERIOD_S)
    assert [(d.id, d.handle) for d in report.devices] == [("n/0", "npu:1"), ("n/1", "npu:0")]


def test_places_survive_a_restart_of_the_agent(tmp_path: Path):
    kept = tmp_path / "positions.json"
    Node(Cards(card(0), card(1)), positions=Positions(kept)).after(0)
    report = Node(Cards(card(1)), positions=Positions(kept)).after(0)
    assert [(d.id, d.handle) for d in report.devices] == [("n/1", "npu:1")]
    kept.write_text("not json")
    assert Node(Cards(card(1)), positions=Positions(kept)).after(0).devices[0].id == "n/0"


def test_a_card_that_does_not_tell_its_serial_for_a_while_is_the_same_device():
    shy = card(0, serial=None)
    cards = Cards(shy)
    node = Node(cards)
    node.after(0)
    cards.shows(card(0))
    (told,) = node.after(LOOK_PERIOD_S).devices
    assert (told.id, told.identity, told.health) == ("n/0", card(0).identity, Health.HEALTHY)
    cards.shows(shy)
    (again,) = node.after(LOOK_PERIOD_S).devices
    assert (again.id, again.health) == ("n/0", Health.HEALTHY)
    cards.shows(card(0, serial="ANOTHER"))
    changed = node.after(LOOK_PERIOD_S)
    assert [d.id for d in changed.devices] == ["n/1", "n/0"]


def test_a_poll_that_raises_is_told_and_hides_nobody():
    class Raising(Cards):
        def poll(self, host, found):
            raise RuntimeError("the sensor is gone")

    report = Node(Raising(card(0))).after(0)
    assert [d.id for d in report.devices] == ["n/0"]
    assert "the sensor is gone" in report.broken[0].reason


def test_two_vendors_share_one_row_of_positions():
    other = Cards(card(7, family="gaudi", pci="0000:00:01.0"))
    other.name = "gaudi"
    report = Node(Cards(card(0), card(1)), other).after(0)
    assert sorted(by_id(report)) == ["n/0", "n/1", "n/2"]
    assert len({d.identity for d in report.devices}) == 3


def test_an_id_that_a_plugin_has_given_out_is_not_given_out_again():
    class Placing:
        name = "placing"

        def probe(self, host, node):
            device = Device(
                id=DeviceId("n/0"), node=NODE, device_class="NVIDIA_T4_16G", memory_bytes=2**33
            )
            return Found(devices=(device,))

    report = Node(Cards(card(0), card(1)), Placing()).after(0)
    assert sorted(d.id for d in report.devices) == ["n/0", "n/1"]
    assert "placing" in report.broken[0].reason


def test_a_card_that_is_pulled_is_lost_and_one_that_is_back_has_to_prove_itself():
    cards = Cards(card(0), card(1))
    node = Node(cards)
    node.after(0)
    cards.shows(card(0))
    assert by_id(node.after(LOOK_PERIOD_S))["n/1"][1] == "healthy"
    lost = node.after(LOST_AFTER_S)
    assert by_id(lost)["n/1"][1] == "lost"
    assert lost.facts[-1].evidence == ("is not there any more",)
    cards.shows(card(0), card(1))
    back = node.after(LOOK_PERIOD_S)
    assert by_id(back)["n/1"][1] == "recovered"
    assert back.facts[-1].resets == 1
    assert by_id(node.after(PROBATION_S))["n/1"][1] == "healthy"


def test_a_lost_device_is_still_of_its_class():
    own = unlisted(vendor="furiosa", kind=Kind.NPU, product="RNGD-X", memory_bytes=2**36)
    cards = Cards(card(0, device_class=own.name), classes=(own,))
    node = Node(cards)
    node.after(0)
    cards.shows()
    node.after(LOOK_PERIOD_S)
    report = node.after(LOST_AFTER_S)
    assert report.devices[0].health is Health.LOST
    assert own in report.classes


def test_a_folder_that_changes_is_looked_at_within_one_poll():
    cards = Cards(card(0))
    host = FakeHost({"/cards/npu0": ""})
    node = Node(cards, host=host)
    node.after(0)
    node.after(1)
    assert cards.looks == 1
    host.files["/cards/npu1"] = ""  # type: ignore[index]
    cards.shows(card(0), card(1))
    assert sorted(by_id(node.after(1))) == ["n/0", "n/1"]
    assert cards.looks == 2


def test_every_card_that_is_plugged_in_is_looked_for_within_one_poll():
    class Quiet:
        name = "quiet"

        def __init__(self):
            self.looks = 0

        def probe(self, host, node):
            self.looks += 1
            return Absent()

    quiet = Quiet()
    host = FakeHost({"/sys/bus/pci/devices/0000:01:00.0/vendor": "0x8086\n"})
    node = Node(quiet, PciScanProbe(), host=host)
    node.after(0)
    node.after(1)
    assert quiet.looks == 1
    host.files["/sys/bus/pci/devices/0000:02:00.0/vendor"] = "0x17cb\n"  # type: ignore[index]
    node.after(1)
    assert quiet.looks == 2


def test_a_broken_probe_keeps_its_devices_for_a_while_and_then_gives_them_no_work():
    cards = Cards(card(0))
    node = Node(cards)
    node.after(0)
    cards.found = Broken(reason="the tool hangs", hint="reboot")
    soon = node.after(LOOK_PERIOD_S)
    assert by_id(soon) == {"n/0": ("furiosa:RNG0@0000:01:00.0", "healthy")}
    assert soon.broken[0].reason == "the tool hangs"
    later = node.after(SILENT_AFTER_S)
    assert by_id(later)["n/0"][1] == "degraded"
    assert "the tool hangs" in later.facts[0].evidence[0]


def test_hardware_that_is_absent_all_of_a_sudden_is_lost():
    cards = Cards(card(0))
    node = Node(cards)
    node.after(0)
    cards.found = Absent()
    node.after(LOOK_PERIOD_S)
    assert by_id(node.after(LOST_AFTER_S))["n/0"][1] == "lost"


def test_readings_travel_with_the_device_and_faults_with_its_health():
    cards = Cards(card(0), card(1))
    hot = Reading(temperature_c=80.0, faults=("PE hangs",))
    cards.readings = {card(1).identity: hot, "furiosa:nobody": Reading()}
    report = Node(cards).after(0)
    assert report.readings == (("n/1", hot),)
    assert [d.health for d in report.devices] == [Health.HEALTHY, Health.DEGRADED]


@pytest.mark.parametrize("answer", [None, [], {1: 2}, {"x": None}, "text"])
def test_readings_that_are_nonsense_are_none(answer):
    cards = Cards(card(0))
    cards.readings = answer
    report = Node(cards).after(0)
    assert (report.readings, len(report.devices)) == ((), 1)


def test_links_make_bonds_and_islands():
    cards = [card(k) for k in range(4)]
    names = [c.identity for c in cards]
    links = {(names[0], names[1]): NVLINK, (names[2], names[3]): NVLINK}
    report = Node(Cards(*cards, links=links)).after(0)
    assert [b.members for b in report.bonds] == [("n/0", "n/1"), ("n/2", "n/3")]
    islands = [d.island for d in report.devices]
    assert islands[0] == islands[1] != islands[2] == islands[3]


@pytest.mark.parametrize(
    "nonsense",
    [
        card(9, serial=None, pci=None),
        card(9, memory_bytes=-5),
        card(9, memory_bytes=2**64),
        card(9, memory_bytes="51002736640"),
        card(9, memory_bytes=True),
        card(9, device_class="NOBODY_KNOWS"),
        card(9, health="fine"),
        card(9, handle=3),
        card(9, shares=0),
        card(0),
        "a card",
    ],
)
def test_an_accelerator_that_makes_no_sense_is_dropped_with_a_reason(nonsense):
    report = Node(Cards(card(0), nonsense)).after(0)
    assert [d.handle for d in report.devices] == ["npu:0"]
    assert len(report.broken) == 1
    assert report.broken[0].reason


def test_a_node_of_64_accelerators_is_one_message_below_100_kb():
    cards = [
        card(k, uuid=f"{k:032x}", firmware="2026.1.0, 1234567", driver="2026.1") for k in range(64)
    ]
    names = [c.identity for c in cards]
    links = {(a, b): NVLINK for i, a in enumerate(names) for b in names[i + 1 :]}
    probe = Cards(*cards, links=links)
    probe.readings = {
        name: Reading(
            memory_used_bytes=10**10 + k,
            utilisation=0.5,
            temperature_c=60.0,
            power_w=150.123,
            clock_ratio=0.9,
        )
        for k, name in enumerate(names)
    }
    report = Node(probe).after(0)
    assert len(report.readings) == 64
    assert len(TypeAdapter(NodeReport).dump_json(report)) < 100_000


def test_a_poll_that_costs_much_happens_rarely():
    report = Node(Cards(card(0))).after(0)
    (poll,) = report.polls
    assert poll.probe == "furiosa"
    assert poll.period_s >= 1.0


def test_what_lasts_does_not_change_with_readings():
    cards = Cards(card(0))
    node = Node(cards)
    before = node.after(0)
    cards.readings = {card(0).identity: Reading(power_w=1.0)}
    after = Node(cards).after(0)
    assert after != before
    assert after.lasting() == before.lasting()
    assert after.renewal().readings == after.readings


def test_a_node_can_replay_a_recording_and_says_that_it_is_emulated(tmp_path: Path):
    (tmp_path / "host.toml").write_text('origin = "synthetic"\n')
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor: 0\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1048576 kB\n")
    real = FakeHost(variables={RECORDING_ENV: str(tmp_path), NODE_ENV: "r-1"})
    report = prober_of_this_node(real, "i").report()
    assert [d.id for d in report.devices] == ["r-1/cpu0"]
    assert report.emulated
    assert report.devices[0].emulated


@pytest.mark.parametrize("text", [None, "not = [toml", "env = 7"])
def test_a_recording_that_cannot_be_read_is_an_empty_machine_with_a_reason(text, tmp_path: Path):
    if text is not None:
        (tmp_path / "host.toml").write_text(text)
    report = prober_of_this_node(FakeHost(variables={RECORDING_ENV: str(tmp_path)}), "i").report()
    assert report.devices == ()
    assert report.broken


def test_devices_of_a_stand_in_are_emulated():
    files = {"/proc/cpuinfo": "processor: 0\n", "/proc/meminfo": "MemTotal: 1048576 kB\n"}
    report = prober_of_this_node(FakeHost(files, variables={STAND_IN_ENV: "1"}), "i").report()
    assert [d.emulated for d in report.devices] == [True]


def test_only_the_probes_that_are_named_look():
    files = {"/proc/cpuinfo": "processor: 0\n", "/proc/meminfo": "MemTotal: 1048576 kB\n"}
    host = FakeHost(files, variables={PROBES_ENV: "furiosa,no-such-probe"})
    report = prober_of_this_node(host, "i").report()
    assert report.devices == ()
    assert [b.name for b in report.broken if "no-such" in b.name] == ["no-such-probe"]


def test_a_probe_that_is_broken_at_first_is_asked_again_soon_and_then_less_often():
    cards = Cards(card(0))
    good, cards.found = cards.found, Broken(reason="the daemon does not answer yet", hint="wait")
    node = Node(cards)
    assert node.after(0).devices == ()
    node.after(RETRY_S)
    assert cards.looks == 2
    node.after(RETRY_S)
    assert cards.looks == 2
    cards.found = good
    assert [d.id for d in node.after(RETRY_S).devices] == ["n/0"]
    node.after(RETRY_S)
    assert cards.looks == 3
