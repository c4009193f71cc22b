"""What the probes say of accelerators that are really there. Skipped, with the reason, where a family has none.

`make hardware` on the machine; `shardyard capture` there turns it into a recording.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.capture import capture
from actors.host import RealHost
from actors.library import Libraries
from actors.pci import pci_functions
from actors.plugins import PROBES_GROUP, PROBES_PACKAGE, load_plugins
from actors.prober import Prober
from actors.vendors import families
from placement.devices import Health
from placement.ids import NodeId

pytestmark = pytest.mark.hardware

NODE = NodeId("n")
PROBES = load_plugins(PROBES_PACKAGE, PROBES_GROUP).found


@pytest.fixture
def host():
    libraries = Libraries()
    yield RealHost(libraries=libraries)
    libraries.close()


def on_the_bus(host: RealHost, family: str) -> int:
    known = families()[family]
    return sum(
        known.claims(f.vendor, f.kind) and not f.virtual for f in pci_functions(host, known.pci)
    )


@pytest.mark.parametrize("family", sorted(name for name in PROBES if name in families()))
def test_every_device_on_the_bus_is_found_and_tells_of_itself(family, host):
    count = on_the_bus(host, family)
    if not count:
        pytest.skip(f"no device of {family} is on this machine's PCI bus")
    report = Prober(host, NODE, [PROBES[family]()]).report()
    assert report.broken == ()
    assert len(report.devices) >= count
    assert len({d.identity for d in report.devices}) == len(report.devices)
    assert all(d.health is Health.HEALTHY for d in report.devices)
    readings = dict(report.readings)
    for facts in report.facts:
        assert facts.pci or facts.part
        reading = readings.get(facts.device)
        assert reading is None or reading.power_w is None or 0 < reading.power_w < 2000


def test_a_capture_of_this_machine_replays_identically(host, tmp_path: Path):
    if not any(on_the_bus(host, name) for name in families() if families()[name].pci):
        pytest.skip("no accelerator of a known family is on this machine's PCI bus")
    done = capture(host, PROBES, tmp_path / "capture", os.urandom(16))
    assert done.differences == ()
