"""Whatever tools, libraries and files say, discovery neither raises nor believes nonsense, and names what it lost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from conformance.test_probes import built_in
from support.attacks import harmless, hostile
from support.hosts import RECORDINGS, FakeHost, in_memory

from actors import quantities
from actors.host import RecordedHost
from actors.probe import Found, LiveProbe
from actors.prober import Prober
from actors.readers import npu_smi
from actors.report import NodeReport, Reading
from placement.ids import NodeId

NODE = NodeId("n-1")
PROBES = built_in()
MACHINES = sorted((f.parent for f in RECORDINGS.rglob("host.toml")), key=str)
CHANGES = 6
MOST_BYTES, MOST_W = 2**47, 20_000.0

each_machine = pytest.mark.parametrize("folder", MACHINES, ids=[m.name for m in MACHINES])


def machine(folder: Path) -> FakeHost:
    """In memory, with the device files that a recording only says may be opened."""
    host = in_memory(folder.parent.name, folder.name)
    said = RecordedHost(folder).facts.get("access", {})
    return host.but({path: "" for path, told in said.items() if told != "absent"})


def looked(host: FakeHost) -> NodeReport:
    prober = Prober(host, NODE, [probe() for probe in PROBES])
    prober.refresh()
    return prober.poll()


def accelerators(report: NodeReport, family: str = "") -> set[str]:
    return {
        d.identity for d in report.devices if d.identity.startswith(f"{family}:" if family else "")
    }


def sensible(report: NodeReport) -> Iterator[str]:
    """What is wrong with a report; nothing is."""
    identities = [d.identity for d in report.devices]
    if len(set(identities)) != len(identities):
        yield "two devices share an identity"
    for device in report.devices:
        if not 0 < device.memory_bytes <= MOST_BYTES and not device.identity.startswith("remote:"):
            yield f"{device.identity} has {device.memory_bytes} bytes"
        if not device.identity or device.shares < 1:
            yield f"{device} has no identity, or no share"
    for fact in report.facts:
        yield from bounded(fact.product, fact.power_limit_w, 0.0, MOST_W)
        yield from bounded(fact.product, fact.temperature_limit_c, -60.0, 200.0)
    for broken in report.broken:
        if not broken.reason or not broken.hint or broken.reason.startswith("raised"):
            yield f"{broken} does not say what mends it"
    yield from plausible(dict(report.readings))


def plausible(readings: Mapping[str, Reading]) -> Iterator[str]:
    for name, reading in readings.items():
        yield from bounded(name, reading.memory_used_bytes, 0, MOST_BYTES)
        yield from bounded(name, reading.utilisation, 0.0, 1.0)
        yield from bounded(name, reading.clock_ratio, 0.0, 1.0)
        yield from bounded(name, reading.temperature_c, -60.0, 200.0)
        yield from bounded(name, reading.power_w, 0.0, MOST_W)


def bounded(name: str, value: float | None, least: float, most: float) -> Iterator[str]:
    if value is not None and not least <= value <= most:
        yield f"{name}: {value} is not in {least} to {most}"


def polled(before: FakeHost, after: FakeHost, family: str) -> Iterator[str]:
    """What is wrong with the polls of a machine that changed after it was looked at."""
    for made in (p for p in PROBES if p.name in (family, "cpu")):
        probe = made()
        found = probe.probe(before, NODE)
        if not isinstance(found, Found) or not isinstance(probe, LiveProbe):
            continue
        own = {d.identity for d in (*found.devices, *found.accelerators)}
        for _ in range(2):
            readings = probe.poll(after, found)
            yield from plausible(readings)
            if not set(readings) <= own:
                yield f"{made.name} tells of {set(readings) - own}"


@each_machine
def test_colours_and_line_ends_lose_nothing(folder):
    host = machine(folder)
    there = accelerators(looked(host))
    for name, changed in harmless(host):
        assert accelerators(looked(changed)) == there, name


@each_machine
def test_no_answer_makes_discovery_raise_or_believe_nonsense(folder):
    host = machine(folder)
    family = folder.parent.name
    there = accelerators(looked(host), family)
    for name, changed in hostile(host, folder.name, CHANGES):
        report = looked(changed)
        assert not [*sensible(report)], name
        fewer = len(accelerators(report, family)) < len(there)
        # Nothing but its own tool, and the chip that it names, says that a machine is one of these Macs.
        unseen = family == "apple" and '"Apple ' not in str(changed.tools)
        if fewer and not unseen and (changed.files, changed.links) == (host.files, host.links):
            assert family in {b.name for b in report.broken}, f"{name}: went without a word"


@each_machine
def test_a_machine_that_changes_under_a_poll_is_told_of_truthfully(folder):
    host = machine(folder)
    for name, changed in hostile(host, f"poll {folder.name}", CHANGES):
        assert not [*polled(host, changed, folder.parent.name)], name


def bystander(host: FakeHost, family: str) -> tuple[str, FakeHost] | None:
    """A machine of another vendor that shares no path with this one but `/proc`."""
    taken = {path for path in (*host.files, *host.links) if not path.startswith(("/proc", "/etc"))}
    for vendor, name in (
        ("rebellions", "captured-8x-ca22-loaded"),
        ("furiosa", "synthetic-4-cards"),
        ("ascend", "synthetic-910b2-8"),
    ):
        other = in_memory(vendor, name)
        if vendor != family and not taken & {*other.files, *other.links}:
            return vendor, other
    return None


def together(one: FakeHost, other: FakeHost) -> FakeHost:
    return replace(
        one,
        files={**other.files, **one.files},
        links={**other.links, **one.links},
        tools={**other.tools, **one.tools},
        libraries={**other.libraries, **one.libraries},
        variables={**other.variables, **one.variables},
        denied=one.denied | other.denied,
    )


@each_machine
def test_another_vendors_devices_on_the_same_machine_stay(folder):
    host = machine(folder)
    beside = bystander(host, folder.parent.name)
    assert beside is not None
    vendor, other = beside
    there = accelerators(looked(other), vendor)
    assert there
    for name, changed in [
        ("as it is", host),
        *hostile(host, f"beside {folder.name}", 1, endings=4),
    ]:
        assert there <= accelerators(looked(together(changed, other)), vendor), name


MEBIBYTE = 2**20
LONG = ("\n", " ", "9", "0-65535,", "a: ", "x 1\n", "[\n", "\x1b[0")


@pytest.mark.parametrize("piece", LONG)
@pytest.mark.parametrize("vendor", ["amd", "furiosa", "rebellions", "tenstorrent", "intel-gpu"])
def test_long_files_cost_a_look_little(vendor, piece):
    """Patterns that read a text again from each of its places would hold the whole agent for minutes."""
    text = piece * (MEBIBYTE // len(piece))
    for folder in (m for m in MACHINES if m.parent.name == vendor):
        host = machine(folder)
        names = {"vendor", "device", "class", "location_id"}
        long = {p: text for p in host.files if p.rpartition("/")[2] not in names}
        probe = next(p for p in PROBES if p.name == vendor)()
        began = time.process_time()
        outcome = probe.probe(host.but(long), NODE)
        if isinstance(outcome, Found) and isinstance(probe, LiveProbe):
            probe.poll(host.but(long), outcome)
        assert time.process_time() - began < 2.0


@pytest.mark.parametrize("piece", LONG)
def test_long_answers_cost_little(piece):
    text = piece * (MEBIBYTE // len(piece))
    began = time.process_time()
    assert quantities.document(text) is None
    assert quantities.measure(text) is None
    assert quantities.size_bytes(text) is None
    assert len(quantities.text_of(text) or "") <= 200
    npu_smi.overview(text)
    npu_smi.logical_ids(text)
    assert time.process_time() - began < 2.0
