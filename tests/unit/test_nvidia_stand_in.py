"""NVIDIA's own Python package, and Ray's copy of it, on a library that stands in for the driver's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from actors.host import RealHost
from actors.probe import Broken, Found
from actors.probes.nvidia import NvidiaProbe
from actors.product import listed
from actors.standins.nvidia import CannotBuildStandIn, Card, build, cards, environment, write
from placement.catalog import catalog
from placement.devices import Health
from placement.ids import NodeId
from placement.interconnect import LinkKind, bonds
from placement.units import MIB

NODE = NodeId("n")
CLASSES = sorted(name for name in catalog() if name.startswith("NVIDIA_"))
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("pynvml") is None, reason="nvidia-ml-py is not installed"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("nvml"))
    except CannotBuildStandIn as reason:
        pytest.skip(str(reason))


@dataclass
class Machine:
    host: RealHost
    place: Path
    cards: tuple[Card, ...]

    def but(self, index: int, **changes) -> None:
        made = list(self.cards)
        made[index] = replace(made[index], **changes)
        self.cards = tuple(made)
        write(self.place, self.cards)


@pytest.fixture
def machine(library, monkeypatch) -> Iterator[Machine]:
    for name, value in environment(library.parent, "NVIDIA_H100_80G", 4).items():
        monkeypatch.setenv(name, value)
    host = RealHost()
    made = cards("NVIDIA_H100_80G", 4, seed=str(library.parent))
    yield Machine(host, library.parent / "cards.txt", made)
    host.libraries.close()


def found(machine: Machine) -> Found:
    told = NvidiaProbe().probe(machine.host, NODE)
    assert isinstance(told, Found), told
    return told


@needs_package
def test_the_real_package_and_the_probe_meet_the_pretended_cards(machine):
    told = found(machine)
    assert [a.uuid for a in told.accelerators] == [c.uuid for c in machine.cards]
    assert {a.device_class for a in told.accelerators} == {"NVIDIA_H100_80G"}
    assert {a.memory_bytes for a in told.accelerators} == {81559 * MIB}
    assert [a.numa_node for a in told.accelerators] == [0, 0, 1, 1]
    assert {a.power_limit_w for a in told.accelerators} == {700.0}
    assert {a.health for a in told.accelerators} == {Health.HEALTHY}
    assert told.broken == ()
    assert told.links is not None
    (bond,) = bonds(told.links)
    assert (bond.link.kind, bond.link.lanes, len(bond.members)) == (LinkKind.DIRECT, 18, 4)


@needs_package
def test_cards_without_nvlink_are_joined_as_the_library_says(machine):
    for index in range(4):
        machine.but(index, links=None)
    links = found(machine).links
    assert links is not None
    assert [link.kind for link in links.values()].count(LinkKind.NUMA) == 2
    assert [link.kind for link in links.values()].count(LinkKind.SYSTEM) == 4


@needs_package
def test_a_card_that_gets_hot_is_seen_by_the_next_poll(machine):
    told = found(machine)
    probe, hot = NvidiaProbe(), told.accelerators[1].identity
    assert probe.poll(machine.host, told)[hot].throttled == ()
    machine.but(1, temperature_c=90, reasons=0x48, clock_mhz=990, power_mw=400_000, used_mib=1024)
    now = probe.poll(machine.host, told)
    assert now[hot].throttled == ("thermal", "hardware")
    assert (now[hot].temperature_c, now[hot].power_w) == (90.0, 400.0)
    assert (now[hot].clock_ratio, now[hot].memory_used_bytes) == (0.5, 1024 * MIB)
    assert [i for i, r in now.items() if r.throttled] == [hot]


@needs_package
def test_an_xid_event_is_heard_once_and_held_against_the_card(machine):
    told = found(machine)
    ill = told.accelerators[2].identity
    machine.but(2, xid=95)
    for _ in range(2):
        now = NvidiaProbe().poll(machine.host, told)
        assert {i: r.faults for i, r in now.items() if r.faults} == {
            ill: ("Xid 95: uncontained memory error",)
        }
    machine.but(2, xid=13)
    assert found(machine).accelerators[2].evidence == ("Xid 95: uncontained memory error",)


@needs_package
def test_a_lost_card_keeps_its_identity_and_the_others_go_on(machine):
    before = found(machine)
    machine.but(0, lost=1, xid=79)
    after = found(machine)
    assert [a.identity for a in after.accelerators] == [a.identity for a in before.accelerators]
    assert [a.health for a in after.accelerators][:2] == [Health.LOST, Health.HEALTHY]
    now = NvidiaProbe().poll(machine.host, before)
    assert now[before.accelerators[0].identity].faults
    assert now[before.accelerators[1].identity].temperature_c == 34.0


@needs_package
def test_cards_that_come_and_go_between_two_looks(machine):
    assert len(found(machine).accelerators) == 4
    write(machine.place, machine.cards[1:3])
    assert [a.uuid for a in found(machine).accelerators] == [c.uuid for c in machine.cards[1:3]]
    write(machine.place, machine.cards)
    assert len(found(machine).accelerators) == 4


@needs_package
def test_a_poll_after_cards_moved_still_speaks_of_the_same_cards(machine):
    machine.but(3, temperature_c=71)
    told = found(machine)
    write(machine.place, (machine.cards[3], machine.cards[1]))
    now = NvidiaProbe().poll(machine.host, told)
    assert [now[a.identity].temperature_c for a in told.accelerators] == [None, 34.0, None, 71.0]
    assert [bool(now[a.identity].faults) for a in told.accelerators] == [True, False, True, False]


@needs_package
def test_a_question_to_a_card_that_does_not_support_it_costs_one_field(machine):
    machine.but(3, power_mw=None, temperature_c=None, busy=None, ecc=None, sm_mhz=None)
    told = found(machine)
    reading = NvidiaProbe().poll(machine.host, told)[told.accelerators[3].identity]
    assert (reading.power_w, reading.temperature_c, reading.utilisation) == (None, None, None)
    assert reading.memory_used_bytes == 0
    assert told.accelerators[3].health is Health.HEALTHY


@needs_package
def test_a_divided_card_is_its_instances_with_memory_of_their_own(machine):
    parent = machine.cards[0]
    machine.but(0, mig=1)
    parts = tuple(
        Card(
            name=f"{parent.name} MIG 3g.40gb",
            uuid=f"MIG-{number}",
            pci=parent.pci,
            mib=40448,
            used_mib=number,
            parent=parent.uuid,
            gi=number,
            ci=0,
            slices=3,
        )
        for number in (1, 2)
    )
    write(machine.place, (*machine.cards, *parts))
    told = found(machine)
    assert [a.part for a in told.accelerators] == ["mig:3g.40gb:1.0", "mig:3g.40gb:2.0", "", "", ""]
    assert [c.name for c in told.classes] == ["NVIDIA_H100_80G_MIG_3G_40G"]
    assert {a.handle for a in told.accelerators[:2]} == {"MIG-1", "MIG-2"}
    now = NvidiaProbe().poll(machine.host, told)
    assert [now[a.identity].memory_used_bytes for a in told.accelerators[:2]] == [MIB, 2 * MIB]
    assert now[told.accelerators[0].identity].temperature_c == 34.0


@needs_package
def test_the_drivers_own_word_on_recovery_and_the_fabric(machine):
    machine.but(0, recovery=2)
    machine.but(1, fabric=1)
    machine.but(2, fabric=3, recovery=0)
    for index in range(4):
        machine.but(index, nvlink_mbyte_per_s=26562)
    told = found(machine)
    words = [" ".join(a.evidence) for a in told.accelerators]
    assert "reboot of the node" in words[0]
    assert "nvidia-fabricmanager" in words[1]
    assert words[2:] == ["", ""]
    assert told.links is not None
    assert {link.bytes_per_s for link in told.links.values()} == {18 * 26562e6}


@needs_package
def test_a_library_that_cannot_start_is_broken_until_it_can(machine):
    machine.place.unlink()
    told = NvidiaProbe().probe(machine.host, NODE)
    assert isinstance(told, Broken)
    assert "libnvidia-ml1" in told.hint
    write(machine.place, machine.cards)
    assert len(found(machine).accelerators) == 4


@needs_package
def test_a_library_that_loses_its_driver_between_two_polls_starts_anew(machine):
    told = found(machine)
    probe = NvidiaProbe()
    machine.place.unlink()
    assert probe.poll(machine.host, told) == {}
    write(machine.place, machine.cards)
    assert len(probe.poll(machine.host, told)) == 4


def test_rays_own_copy_of_the_package_counts_the_same_cards(machine):
    code = (
        "import ray._private.thirdparty.pynvml as n; n.nvmlInit(); "
        "h = n.nvmlDeviceGetHandleByIndex(3); "
        "print(n.nvmlDeviceGetCount(), n.nvmlDeviceGetName(h))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("Ray has no copy of pynvml here")
    assert done.stdout.split(maxsplit=1) == ["4", "NVIDIA H100 80GB HBM3\n"], done.stderr


@pytest.mark.parametrize("name", CLASSES)
def test_a_pretended_card_of_every_class_is_recognised_as_that_class(name):
    (card,) = cards(name, 1)
    known = listed("nvidia", card.name, memory_bytes=card.mib * MIB)
    assert known is not None
    assert known.name == name


def test_pretended_nodes_do_not_share_uuids():
    one, other = (cards("NVIDIA_L4_24G", 8, seed=seed) for seed in ("a", "b"))
    assert len({c.uuid for c in (*one, *other)}) == 16
    assert one == cards("NVIDIA_L4_24G", 8, seed="a")


@pytest.mark.parametrize(("name", "count"), [("AMD_MI300X_192G", 1), ("NVIDIA_L4_24G", 65)])
def test_no_cards_of_others_and_not_too_many(name, count):
    with pytest.raises(ValueError, match="no stand-in"):
        cards(name, count)


def test_without_a_compiler_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBuildStandIn, match="no C compiler"):
        build(tmp_path / "nvml")
