"""Apple's chips: unified memory, figures by the chip's name, and answers that make no sense."""

from __future__ import annotations

import json

import pytest
from support.hosts import FakeHost, in_memory, recorded

from actors.host import command_name
from actors.probe import Absent, Broken, Found
from actors.probes.apple import AppleProbe
from actors.tools import Completed
from placement.ids import NodeId
from placement.units import GBYTE, GIB

NODE = NodeId("n")
TOOL = command_name(["system_profiler", "SPHardwareDataType", "SPDisplaysDataType", "-json"])


def mac(**changes: object) -> FakeHost:
    """The recorded machine with other values; None leaves a key out."""
    host = in_memory("apple", "synthetic-m2-max")
    text = host.tools[TOOL]
    assert isinstance(text, str)
    told = json.loads(text)
    (machine,) = told["SPHardwareDataType"]
    told["SPHardwareDataType"] = [
        {k: v for k, v in {**machine, **changes}.items() if v is not None}
    ]
    return host.but({}, tools={TOOL: json.dumps(told)})


def found(host) -> Found:
    outcome = AppleProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def test_the_gpu_gets_three_quarters_of_the_unified_memory():
    outcome = found(recorded("apple", "synthetic-m2-max"))
    (one,), (known,) = outcome.accelerators, outcome.classes
    assert one.memory_bytes == 48 * GIB
    assert one.device_class == known.name == "APPLE_M2_MAX_48G"
    assert known.memory_bytes < 48 * GIB
    assert known.bandwidth_bytes_per_s == 400 * GBYTE
    assert set(known.recalled) == {"gbyte_per_s", "tflops", "watts"}
    assert one.identity == "apple:00000000-0000-1000-8000-0123456789AB"
    assert ("gpu cores", "38") in one.notes


@pytest.mark.parametrize(
    ("chip", "gbyte_per_s"),
    [("Apple M1", 68), ("Apple M1 Ultra", 800), ("Apple M3 Pro", 150), ("Apple M4 Max", 410)],
)
def test_figures_follow_the_chips_name(chip, gbyte_per_s):
    (known,) = found(mac(chip_type=chip)).classes
    assert known.bandwidth_bytes_per_s == gbyte_per_s * GBYTE


@pytest.mark.parametrize("chip", ["Apple M99 Max", "Apple Vision"])
def test_a_chip_that_is_not_in_the_table_is_assumed_slow(chip):
    (known,) = found(mac(chip_type=chip)).classes
    assert known.bandwidth_bytes_per_s == 200 * GBYTE
    assert "assumed" in known.source


def test_the_serial_stands_in_for_a_missing_uuid():
    (one,) = found(mac(platform_UUID=None)).accelerators
    assert one.identity == "apple:X0000000XX"


def test_without_any_identity_there_is_no_device():
    outcome = found(mac(platform_UUID=None, serial_number=None))
    assert outcome.accelerators == ()
    assert "tells no serial number" in outcome.broken[0].reason


def test_a_mac_with_another_vendors_chip_has_no_device_here():
    assert AppleProbe().probe(mac(chip_type=None), NODE) == Absent()


@pytest.mark.parametrize("memory", ["-64 GB", "64 XB", "", 7.5e30, None, f"{2**64} GB"])
def test_nonsense_memory_is_no_device(memory):
    outcome = AppleProbe().probe(mac(physical_memory=memory), NODE)
    assert isinstance(outcome, Broken)
    assert "memory" in outcome.reason


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Completed(rc=0, out="", err=""), "printed nothing"),
        (Completed(rc=-9, out="", err="", ended="timeout"), "did not answer"),
        (Completed(rc=-9, out="{", err="", ended="output_cap"), "without end"),
        (Completed(rc=1, out="", err="sandbox"), "sandbox"),
        ("{}", "nothing of the hardware"),
        ('{"SPHardwareDataType": [7]}', "nothing of the hardware"),
        ("\ufffd\ufffd", "nothing of the hardware"),
    ],
)
def test_a_tool_that_tells_nothing_is_broken(answer, says):
    outcome = AppleProbe().probe(FakeHost(tools={TOOL: answer}), NODE)
    assert isinstance(outcome, Broken)
    assert says in outcome.reason
    assert "system_profiler" in outcome.hint


def test_a_machine_without_the_tool_is_no_mac():
    assert AppleProbe().probe(FakeHost(), NODE) == Absent()
