"""Accelerators that no probe reads are named; displays and the devices of other probes are not."""

from __future__ import annotations

import pytest
from support.hosts import FakeHost, recorded

from actors.pci import DEVICES
from actors.probe import Absent, Found
from actors.probes.pci_scan import PciScanProbe
from actors.vendors import families
from placement.ids import NodeId

NODE = NodeId("n")


def machine(vendor: str, device: str, kind: str) -> FakeHost:
    folder = f"{DEVICES}/0000:3b:00.0"
    return FakeHost(
        {
            f"{folder}/vendor": f"0x{vendor}\n",
            f"{folder}/device": f"0x{device}\n",
            f"{folder}/class": f"0x{kind}\n",
        }
    )


def reasons(host) -> list[str]:
    outcome = PciScanProbe().probe(host, NODE)
    return [b.reason for b in outcome.broken] if isinstance(outcome, Found) else []


def test_each_kind_of_device_that_nobody_reads_is_named_once():
    said = reasons(recorded("pci-scan", "synthetic-unread-accelerators"))
    assert said == [
        "Amazon Neuron device 1d0f:7264 at 0000:af:00.0 is claimed by no probe",
        "Moore Threads device 1ed5:0222 at 0000:86:00.0 is claimed by no probe",
        "PCI device beef:0001 at 0000:d8:00.0 is claimed by no probe",
        "Cambricon device cabc:0290 at 0000:3b:00.0, 0000:5e:00.0 is claimed by no probe",
    ]


def test_the_hint_says_what_can_be_done():
    outcome = PciScanProbe().probe(recorded("pci-scan", "synthetic-unread-accelerators"), NODE)
    assert isinstance(outcome, Found)
    assert outcome.accelerators == ()
    assert all("declare it" in b.hint for b in outcome.broken)


def test_displays_that_are_no_accelerators_are_not_named():
    assert PciScanProbe().probe(recorded("pci-scan", "synthetic-plain-displays"), NODE) == Absent()


@pytest.mark.parametrize("family", [f for f in families().values() if f.pci])
def test_what_a_family_claims_is_left_to_its_probe(family):
    kind = (family.pci_classes[0] + "000000")[:6]
    assert reasons(machine(family.pci[0], "0001", kind)) == []


@pytest.mark.parametrize(
    ("vendor", "kind", "named"),
    [
        ("abcd", "120000", True),
        ("abcd", "030200", True),
        ("abcd", "030000", False),
        ("abcd", "088000", False),
        ("9999", "030000", True),
        ("9999", "020000", False),
        ("1e3e", "088000", True),
    ],
)
def test_what_counts_as_an_accelerator(vendor, kind, named):
    assert bool(reasons(machine(vendor, "0001", kind))) is named


def test_the_npu_of_an_amd_processor_is_named_and_its_sensor_hub_is_not():
    assert reasons(machine("1022", "17f0", "118000")) == [
        "AMD XDNA NPU, PCI device 1022:17f0 at 0000:3b:00.0 is claimed by no probe"
    ]
    assert reasons(machine("1022", "15e4", "118000")) == []
