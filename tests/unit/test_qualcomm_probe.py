"""Cloud AI cards and the Hexagon NPU: what proves that they can be used, and what is missing when they cannot."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.hosts import FakeHost, in_memory, recorded

import actors
from actors.probe import Absent, Broken, Found
from actors.probes.qualcomm import UNNAMED, QualcommProbe
from actors.tools import Completed
from placement.devices import Health
from placement.ids import NodeId
from placement.units import GIB

NODE = NodeId("n")
CARDS, SOC = "synthetic-cloud-ai-2", "synthetic-snapdragon-x"
ANSWER = "onnxruntime_devices"


def found(host) -> Found:
    outcome = QualcommProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def broken(host) -> Broken:
    outcome = QualcommProbe().probe(host, NODE)
    assert isinstance(outcome, Broken), outcome
    return outcome


def told(**changes: object) -> FakeHost:
    host = in_memory("qualcomm", SOC)
    text = host.libraries[ANSWER]
    assert isinstance(text, str)
    return host.but({}, libraries={ANSWER: json.dumps({**json.loads(text), **changes})})


def test_cards_are_known_by_their_address_and_the_wireless_card_is_none():
    outcome = found(recorded("qualcomm", CARDS))
    assert [(a.identity, a.handle, a.numa_node) for a in outcome.accelerators] == [
        ("qualcomm:@0000:41:00.0", "accel0", 0),
        ("qualcomm:@0000:a1:00.0", "accel1", 1),
    ]
    one = outcome.accelerators[0]
    assert one.device_class == "QUALCOMM_CLOUD_AI_100_16G"
    assert one.memory_bytes is None
    assert "smallest" in dict(one.notes)["memory"]


def test_a_card_without_driver_names_the_driver():
    outcome = found(in_memory("qualcomm", CARDS).but({"/sys/class/accel/accel1": None}))
    assert [a.pci for a in outcome.accelerators] == ["0000:41:00.0"]
    (wrong,) = outcome.broken
    assert "0000:a1:00.0" in wrong.reason
    assert "qaic" in wrong.hint


def test_a_device_file_that_may_not_be_opened_names_the_group():
    host = in_memory("qualcomm", CARDS)
    closed = host.but({}, denied=frozenset({"/dev/accel/accel0", "/dev/accel/accel1"}))
    assert "usermod" in broken(closed).hint


def test_an_unknown_card_is_not_given_a_memory():
    host = in_memory("qualcomm", CARDS)
    other = {p: t.replace("0xa100", "0xa999") for p, t in host.files.items()}
    assert "memory" in broken(host.but(other)).reason


def test_a_wireless_card_alone_is_nothing():
    gone = {f"/sys/bus/pci/devices/0000:{bus}:00.0": None for bus in ("41", "a1")}
    assert QualcommProbe().probe(in_memory("qualcomm", CARDS).but(gone), NODE) == Absent()


def test_a_hexagon_that_the_runtime_names():
    (one,) = found(recorded("qualcomm", SOC)).accelerators
    assert one.identity == "qualcomm:2894136512/cdsp"
    assert (one.product, one.device_class) == (
        "Hexagon NPU of X1E80100",
        "QUALCOMM_HEXAGON_X_ELITE",
    )
    assert one.memory_bytes == 32389120 * 1024 // 2
    assert one.health is Health.HEALTHY


@pytest.mark.parametrize(
    "offers",
    [
        [],
        [{"provider": "QNNExecutionProvider", "type": "CPU", "vendor_id": 0x1022}],
        [{"provider": "QNNExecutionProvider", "type": "NPU", "vendor_id": 0x8086}],
        [{"provider": "OpenVINOExecutionProvider", "type": "NPU", "vendor_id": 0x17CB}],
        [7, None],
        "nonsense",
    ],
)
def test_a_provider_that_may_only_emulate_gets_no_work(offers):
    (one,) = found(told(offers=offers)).accelerators
    assert one.health is Health.DEGRADED
    assert one.evidence == (UNNAMED,)


@pytest.mark.parametrize(
    ("libraries", "says"),
    [
        ({}, "ONNX Runtime is not installed"),
        ({ANSWER: Completed(rc=124, out="", err="", ended="timeout")}, "did not answer"),
        ({ANSWER: Completed(rc=1, out="", err="ended with status -11")}, "-11"),
        ({ANSWER: Completed(rc=0, out="", err="")}, "printed nothing"),
        ({ANSWER: "[1, 2]"}, "no QNNExecutionProvider"),
        ({ANSWER: '{"providers": ["CPUExecutionProvider"]}'}, "no QNNExecutionProvider"),
        ({ANSWER: '{"providers": 7}'}, "no QNNExecutionProvider"),
    ],
)
def test_a_hexagon_without_a_runtime_is_broken_with_what_to_install(libraries, says):
    wrong = broken(in_memory("qualcomm", SOC).but({}, libraries=libraries))
    assert says in wrong.reason
    assert "pip install onnxruntime-qnn" in wrong.hint


def test_a_dsp_that_may_not_be_opened():
    host = in_memory("qualcomm", SOC).but({}, denied=frozenset({"/dev/fastrpc-cdsp"}))
    assert "may not be opened" in broken(host).reason


def test_an_unknown_processor_gets_a_class_with_half_of_the_ram():
    files = {"/sys/devices/soc0/machine": "SM9999\n", "/sys/devices/soc0/serial_number": None}
    host = in_memory("qualcomm", SOC).but({**files, "/etc/machine-id": f"{'a' * 32}\n"})
    outcome = found(host)
    (one,), (known,) = outcome.accelerators, outcome.classes
    assert one.device_class == known.name == "QUALCOMM_HEXAGON_NPU_OF_SM9999_15G"
    assert 13 * GIB < known.memory_bytes < 15 * GIB
    assert one.identity.startswith("qualcomm:machine-")
    assert "a" * 32 not in one.identity


def test_nothing_is_asked_where_nothing_is():
    host = FakeHost(libraries=in_memory("qualcomm", SOC).libraries)
    assert QualcommProbe().probe(host, NODE) == Absent()


def runtime_script():
    return runpy.run_path(str(Path(actors.__file__).parent / "libraries" / "onnxruntime.py"))


def test_the_library_script_tells_hardware_offers_and_what_failed(monkeypatch):
    device = SimpleNamespace(
        type="OrtHardwareDeviceType.NPU",
        vendor_id=0x17CB,
        device_id=1,
        vendor="Qualcomm",
        metadata={"accel_idx": 0},
    )

    def refuses():
        raise RuntimeError("no such call")

    stand_in = SimpleNamespace(
        __version__="9.9",
        get_available_providers=lambda: ["CPUExecutionProvider"],
        get_hardware_devices=refuses,
        get_ep_devices=lambda: [SimpleNamespace(ep_name="X", device=device)],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)
    said = json.loads(json.dumps(runtime_script()["answer"]("devices")))
    assert said["version"] == "9.9"
    assert said["hardware"] == []
    assert said["offers"] == [
        {
            "provider": "X",
            "type": "NPU",
            "vendor_id": 0x17CB,
            "device_id": 1,
            "vendor": "Qualcomm",
            "metadata": {"accel_idx": "0"},
        }
    ]
    assert "RuntimeError: no such call" in said["errors"]


def test_the_library_script_knows_one_question():
    with pytest.raises(ValueError, match="other"):
        runtime_script()["answer"]("other")
