"""Intel's NPUs on recorded machines, with and without a runtime that sees them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.hosts import FakeHost, in_memory, recorded

from actors.pci import DEVICES
from actors.probe import Absent, Broken, Found
from actors.probes.intel_npu import IntelNpuProbe
from actors.tools import Completed
from placement.devices import Health
from placement.ids import NodeId

NODE = NodeId("n")
ADDRESS = "0000:00:0b.0"
LUNAR = "synthetic-lunar-lake"


def found(host) -> Found:
    outcome = IntelNpuProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def folder(host: FakeHost) -> str:
    return host.resolve(f"{DEVICES}/{ADDRESS}") or ""


def test_captured_npu_that_sleeps():
    host = recorded("intel-npu", "captured-lunar-lake-asleep")
    probe = IntelNpuProbe()
    outcome = probe.probe(host, NODE)
    assert isinstance(outcome, Found)
    (npu,) = outcome.accelerators
    assert (npu.device_class, npu.health) == ("INTEL_NPU_LUNAR_LAKE", Health.HEALTHY)
    assert ("highest clock, MHz", "1900") in npu.notes
    (reading,) = probe.poll(host, outcome).values()
    assert (reading.memory_used_bytes, reading.utilisation) == (68714496, None)
    assert reading.clock_ratio is None, "its clock reads 0 while it sleeps"


def test_an_npu_that_openvino_lists():
    outcome = found(recorded("intel-npu", LUNAR))
    (npu,) = outcome.accelerators
    assert npu.identity == f"intel-npu:@{ADDRESS}"
    assert (npu.product, npu.device_class) == ("Intel NPU (Lunar Lake)", "INTEL_NPU_LUNAR_LAKE")
    assert (npu.handle, npu.health, npu.memory_bytes) == ("NPU", Health.HEALTHY, None)
    assert outcome.broken == ()


def test_an_npu_that_openvino_does_not_list_gets_no_work():
    outcome = found(recorded("intel-npu", "synthetic-meteor-lake-old-kernel"))
    (npu,) = outcome.accelerators
    assert (npu.health, npu.evidence) == (Health.DEGRADED, ("OpenVINO does not list it",))
    assert "intel-level-zero-npu" in outcome.broken[0].hint


def test_without_openvino_nothing_is_said_against_it():
    outcome = found(in_memory("intel-npu", LUNAR).but({}, libraries={}))
    assert outcome.accelerators[0].health is Health.HEALTHY
    assert outcome.broken == ()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Completed(rc=124, out="", err="", ended="timeout"), "did not answer in time"),
        (Completed(rc=0, out="x" * 100, err="", ended="output_cap"), "without end"),
        (Completed(rc=1, out="", err="RuntimeError: plugins.xml"), "plugins.xml"),
        (Completed(rc=0, out="", err=""), "printed nothing"),
        (Completed(rc=0, out="[1, 2]", err=""), "makes no sense"),
        (Completed(rc=0, out='{"devices": 7}', err=""), "makes no sense"),
    ],
)
def test_a_runtime_that_does_not_answer_is_no_verdict(answer, words):
    host = in_memory("intel-npu", LUNAR).but({}, libraries={"openvino_devices": answer})
    outcome = found(host)
    assert outcome.accelerators[0].health is Health.HEALTHY
    assert words in outcome.broken[0].reason


def test_busy_time_becomes_utilisation():
    host = replace(in_memory("intel-npu", LUNAR), clock=[10.0, 12.0, 14.0])
    probe = IntelNpuProbe()
    outcome = probe.probe(host, NODE)
    assert isinstance(outcome, Found)
    name = outcome.accelerators[0].identity
    first = probe.poll(host, outcome)[name]
    assert (first.utilisation, first.memory_used_bytes, first.clock_ratio) == (None, 2**28, 1.0)
    later = host.but({f"{folder(host)}/npu_busy_time_us": f"{1234567 + 500_000}\n"})
    assert probe.poll(later, outcome)[name].utilisation == 0.25
    reset = host.but({f"{folder(host)}/npu_busy_time_us": "0\n"})
    assert probe.poll(reset, outcome)[name].utilisation is None


def test_a_sleeping_npu_has_no_clock():
    host = in_memory("intel-npu", LUNAR)
    host = host.but({f"{folder(host)}/npu_current_frequency_mhz": "0\n"})
    outcome = found(host)
    (reading,) = IntelNpuProbe().poll(host, outcome).values()
    assert reading.clock_ratio is None


def test_a_runtime_that_saw_it_once_is_not_asked_again():
    host = in_memory("intel-npu", LUNAR)
    probe = IntelNpuProbe()
    assert isinstance(probe.probe(host, NODE), Found)
    outcome = probe.probe(host.but({}, libraries={}), NODE)
    assert isinstance(outcome, Found)
    hidden = json.dumps({"devices": [{"name": "CPU"}]})
    outcome = probe.probe(host.but({}, libraries={"openvino_devices": hidden}), NODE)
    assert isinstance(outcome, Found)
    assert outcome.accelerators[0].health is Health.HEALTHY


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        ("driver", "has no driver", "a kernel from 6.6"),
        ("vfio", "is held by vfio-pci", "a kernel from 6.6"),
        ("denied", "may not be opened", "usermod -aG render"),
        ("node", "has no device file", "--device /dev/accel"),
    ],
)
def test_one_that_cannot_be_used_is_broken(change, words, hint):
    host = in_memory("intel-npu", LUNAR)
    changed = {
        "driver": lambda: host.but({f"{folder(host)}/uevent": "PCI_ID=8086:643E\n"}),
        "vfio": lambda: host.but({f"{folder(host)}/uevent": "DRIVER=vfio-pci\n"}),
        "denied": lambda: host.but({}, denied=frozenset({"/dev/accel/accel0"})),
        "node": lambda: host.but({"/dev": None}),
    }[change]()
    outcome = IntelNpuProbe().probe(changed, NODE)
    assert isinstance(outcome, Broken)
    assert words in outcome.reason
    assert hint in outcome.hint


def test_an_npu_that_nobody_listed_has_to_be_declared():
    host = in_memory("intel-npu", LUNAR)
    outcome = found(host.but({f"{folder(host)}/device": "0xd71d\n"}))
    assert (outcome.accelerators, outcome.classes) == ((), ())
    assert "Intel NPU d71d" in outcome.broken[0].reason
    assert "declare it" in outcome.broken[0].hint


def test_intels_other_devices_are_none():
    host = in_memory("intel-npu", LUNAR)
    assert (
        IntelNpuProbe().probe(host.but({f"{folder(host)}/class": "0x088000\n"}), NODE) == Absent()
    )
