"""Google's TPUs on recorded machines, and without their device files."""

from __future__ import annotations

import pytest
from support.hosts import in_memory, recorded

from actors.pci import DEVICES
from actors.probe import Absent, Broken, Found
from actors.probes.tpu import TpuProbe
from placement.ids import NodeId
from placement.interconnect import LinkKind

NODE = NodeId("n")


def found(host) -> Found:
    outcome = TpuProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


@pytest.mark.parametrize(
    ("name", "device_class"), [("synthetic-v5e-4", "TPU_V5E_16G"), ("synthetic-v4-4", "TPU_V4_32G")]
)
def test_chips_of_a_machine(name, device_class):
    outcome = found(recorded("tpu", name))
    assert [a.handle for a in outcome.accelerators] == ["0", "1", "2", "3"]
    assert {a.device_class for a in outcome.accelerators} == {device_class}
    assert outcome.accelerators[3].identity == "tpu:@0000:00:08.0"
    assert {link.kind for link in (outcome.links or {}).values()} == {LinkKind.DIRECT}
    assert len(outcome.links or {}) == 6


def test_other_devices_of_the_vendor_are_no_chips():
    host = in_memory("tpu", "synthetic-v4-4")
    chips = {f"{host.resolve(f'{DEVICES}/0000:00:{k:02x}.0')}": None for k in (5, 6, 7, 8)}
    links = {k: v for k, v in host.links.items() if k.endswith("02.0")}
    assert TpuProbe().probe(host.but(chips, links=links), NODE) == Absent()


def test_chips_of_another_kind_have_to_be_declared():
    host = in_memory("tpu", "synthetic-v4-4")
    folders = [host.resolve(f"{DEVICES}/0000:00:{k:02x}.0") for k in (5, 6, 7, 8)]
    outcome = found(host.but({f"{folder}/device": "0x00ff\n" for folder in folders}))
    assert (outcome.accelerators, outcome.classes) == ((), ())
    assert len(outcome.broken) == 4
    assert all("TPU 00ff" in b.reason and "declare it" in b.hint for b in outcome.broken)


def test_no_device_files_is_broken():
    host = in_memory("tpu", "synthetic-v4-4").but({f"/dev/accel{k}": None for k in range(4)})
    outcome = TpuProbe().probe(host, NODE)
    assert isinstance(outcome, Broken)
    assert "4 TPU chips" in outcome.reason
    assert "privileged" in outcome.hint


def test_files_that_may_not_be_opened_are_broken():
    host = in_memory("tpu", "synthetic-v5e-4")
    outcome = TpuProbe().probe(host.but({}, denied=frozenset({"/dev/vfio/2"})), NODE)
    assert isinstance(outcome, Broken)
    assert "/dev/vfio/2" in outcome.reason
