"""Intel's GPUs on recorded machines, under both kernel drivers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.hosts import FakeHost, in_memory, recorded

from actors.pci import DEVICES
from actors.probe import Absent, Broken, Found
from actors.probes.intel_gpu import INTEGRATED_ENV, IntelGpuProbe
from actors.tools import Completed
from placement.devices import Health
from placement.ids import NodeId
from placement.interconnect import LinkKind
from placement.units import KIB

NODE = NodeId("n")
B580 = "synthetic-b580-xe"
PAIR = "synthetic-arc-pair-i915"


def found(host) -> Found:
    outcome = IntelGpuProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def folder(host: FakeHost, address: str = "0000:03:00.0") -> str:
    return host.resolve(f"{DEVICES}/{address}") or ""


def test_a_card_on_xe_and_not_the_processors_gpu():
    outcome = found(recorded("intel-gpu", B580))
    (card,) = outcome.accelerators
    assert (card.product, card.device_class) == ("Intel Arc B580 Graphics", "INTEL_ARC_B580_12G")
    assert (card.pci, card.handle) == ("0000:03:00.0", "0")
    assert card.memory_bytes == 12 * 2**30 - 2**25
    assert (card.power_limit_w, card.temperature_limit_c) == (190.0, 100.0)
    assert outcome.broken == ()


def test_the_processors_gpu_is_offered_when_its_owner_says_so():
    host = in_memory("intel-gpu", B580).but({}, variables={INTEGRATED_ENV: "1"})
    card, own = found(host).accelerators
    assert (card.handle, own.handle) == ("0", "1"), "Level Zero counts cards first"
    assert own.pci == "0000:00:02.0"
    assert own.memory_bytes == 65536000 * KIB // 2


def test_cards_on_i915_get_their_memory_from_the_tool():
    outcome = found(recorded("intel-gpu", PAIR))
    first, second = outcome.accelerators
    assert (first.device_class, first.memory_bytes) == ("INTEL_ARC_A770_16G", 17102532608)
    assert (second.product, second.memory_bytes) == ("Intel(R) Arc(TM) A580 Graphics", 2**33)
    assert second.device_class == outcome.classes[0].name
    (link,) = (outcome.links or {}).values()
    assert link.kind is LinkKind.SWITCH


@pytest.mark.parametrize(
    "answer",
    [
        None,
        Completed(rc=124, out="", err="", ended="timeout"),
        Completed(rc=0, out="{" * 1000, err="", ended="output_cap"),
        Completed(rc=0, out="", err=""),
        Completed(rc=0, out="\x1b[31m[]", err=""),
        Completed(rc=0, out='{"device_list": [7, {"pci_bdf_address": 3}, {}]}', err=""),
        Completed(
            rc=0,
            out=json.dumps(
                {
                    "device_list": [
                        {"pci_bdf_address": "0000:03:00.0", "memory_physical_size_byte": -1}
                    ]
                }
            ),
            err="",
        ),
    ],
)
def test_without_a_usable_answer_the_memory_is_unknown(answer):
    tools = {"xpu-smi_discovery_-j": answer} if answer else {}
    outcome = found(in_memory("intel-gpu", PAIR).but({}, tools=tools))
    (first,) = outcome.accelerators
    assert (first.device_class, first.memory_bytes) == ("INTEL_ARC_A770_16G", None)
    assert "tells no memory" in outcome.broken[-1].reason, "the other card is not in the catalog"
    assert "declare it" in outcome.broken[-1].hint


def test_lmem_of_i915_needs_no_tool():
    host = in_memory("intel-gpu", PAIR)
    sizes = {
        f"{folder(host, a)}/drm/card{k}/lmem_total_bytes": f"{n * 2**30}\n"
        for k, (a, n) in enumerate((("0000:03:00.0", 16), ("0000:04:00.0", 8)))
    }
    first, second = found(host.but(sizes, tools={})).accelerators
    assert (first.memory_bytes, second.memory_bytes) == (2**34, 2**33)


def test_tiles_of_a_card_add_up():
    host = in_memory("intel-gpu", B580)
    more = {f"{folder(host)}/tile1/physical_vram_size_bytes": f"{2**33:#x}\n"}
    assert found(host.but(more)).accelerators[0].memory_bytes == 20 * 2**30 - 2**25


def test_what_a_card_does_now():
    host = replace(in_memory("intel-gpu", B580), clock=[100.0, 102.0])
    probe = IntelGpuProbe()
    outcome = probe.probe(host, NODE)
    assert isinstance(outcome, Found)
    name = outcome.accelerators[0].identity
    first = probe.poll(host, outcome)[name]
    assert (first.utilisation, first.power_w, first.temperature_c) == (None, None, 46.0)
    later = host.but(
        {
            f"{folder(host)}/tile0/gt0/gtidle/idle_residency_ms": f"{912345 + 500}\n",
            f"{folder(host)}/hwmon/hwmon5/energy1_input": f"{81234567890 + 240_000_000}\n",
            f"{folder(host)}/tile0/gt0/freq0/act_freq": "1425\n",
            f"{folder(host)}/tile0/gt0/freq0/throttle/status": "1\n",
            f"{folder(host)}/tile0/gt0/freq0/throttle/reason_thermal": "1\n",
        }
    )
    second = probe.poll(later, outcome)[name]
    assert (second.utilisation, second.power_w) == (0.75, 120.0)
    assert (second.clock_ratio, second.throttled) == (0.5, ("thermal",))


def test_a_recording_stands_still():
    host = recorded("intel-gpu", B580)
    probe = IntelGpuProbe()
    outcome = probe.probe(host, NODE)
    assert isinstance(outcome, Found)
    readings = [probe.poll(host, outcome) for _ in range(2)]
    assert readings[0] == readings[1]
    assert next(iter(readings[1].values())).power_w is None


def test_gpus_that_openvino_does_not_list_get_no_work():
    answer = json.dumps({"devices": [{"name": "CPU"}]})
    outcome = found(in_memory("intel-gpu", B580).but({}, libraries={"openvino_devices": answer}))
    assert outcome.accelerators[0].health is Health.DEGRADED
    assert "intel-opencl-icd" in outcome.broken[0].hint


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        ("driver", "has no driver", "xe or i915"),
        ("denied", "is denied", "usermod -aG render"),
        ("node", "is absent", "--device /dev/dri"),
    ],
)
def test_one_that_cannot_be_used_is_broken(change, words, hint):
    host = in_memory("intel-gpu", B580)
    changed = {
        "driver": lambda: host.but({f"{folder(host)}/uevent": "PCI_ID=8086:E20B\n"}),
        "denied": lambda: host.but({}, denied=frozenset({"/dev/dri/renderD129"})),
        "node": lambda: host.but({"/dev/dri/renderD129": None}),
    }[change]()
    outcome = IntelGpuProbe().probe(changed, NODE)
    assert isinstance(outcome, Broken)
    assert words in outcome.reason
    assert hint in outcome.hint


def test_a_machine_with_only_the_processors_gpu_has_nothing():
    host = in_memory("intel-gpu", B580)
    links = {k: v for k, v in host.links.items() if "03:00.0" not in k}
    assert IntelGpuProbe().probe(host.but({folder(host): None}, links=links), NODE) == Absent()
