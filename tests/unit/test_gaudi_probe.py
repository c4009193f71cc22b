"""The Gaudi probe: modules and identities, both sources of figures, and what is missing from them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.hosts import in_memory, recorded

import actors
from actors.host import command_name
from actors.probe import Absent, Broken, Found
from actors.probes.gaudi import COLUMNS, LIVE, GaudiProbe
from actors.tools import Completed
from placement.devices import Health
from placement.ids import NodeId
from placement.interconnect import LinkKind
from placement.units import GIB, MIB

NODE = NodeId("n")
STATIC = command_name(["hl-smi", "-Q", COLUMNS, "-f", "csv"])
POLLED = command_name(["hl-smi", "-Q", LIVE, "-f", "csv"])
BOARD = "synthetic-gaudi2-8"
FIRST = "/sys/bus/pci/devices/0000:33:00.0"


def found(host) -> Found:
    outcome = GaudiProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def changed(edit, command: str = STATIC):
    host = in_memory("gaudi", BOARD)
    text = host.tools[command]
    assert isinstance(text, str)
    return host.but({}, tools={**host.tools, command: edit(text)})


def test_the_handle_is_the_module_and_the_identity_is_neither_index_nor_module():
    outcome = found(recorded("gaudi", BOARD))
    assert [a.handle for a in outcome.accelerators] == ["3", "6", "0", "4", "1", "5", "2", "7"]
    first = outcome.accelerators[0]
    assert first.identity == "gaudi:01P0-HL2080A0-15-TNPS70-01-00-00@0000:33:00.0"
    assert (first.product, first.device_class) == ("Gaudi HL-225", "INTEL_GAUDI2_96G")
    assert (first.memory_bytes, first.numa_node) == (96 * GIB, 0)
    assert (first.serial, first.driver) == ("AM14000213", "1.24.0-fw-62.6.2.0")


def test_a_full_baseboard_is_one_fabric():
    links = found(recorded("gaudi", BOARD)).links
    assert links is not None
    assert len(links) == 28
    assert {link.kind for link in links.values()} == {LinkKind.DIRECT}


def test_cards_that_are_no_full_baseboard_are_not_said_to_be_joined():
    outcome = found(in_memory("gaudi", BOARD).but({FIRST: None}))
    assert len(outcome.accelerators) == 7
    assert not outcome.links


def test_without_modules_in_sysfs_the_tool_tells_them():
    host = in_memory("gaudi", BOARD).but({f"{FIRST}/module_id": None})
    assert found(host).accelerators[0].handle == "3"


def test_readings_of_the_tool():
    host = recorded("gaudi", BOARD)
    outcome = found(host)
    reading = GaudiProbe().poll(host, outcome)[outcome.accelerators[0].identity]
    assert (reading.memory_used_bytes, reading.utilisation) == (88410 * MIB, 0.97)
    assert (reading.temperature_c, reading.power_w) == (26.0, 412.0)
    assert reading.clock_ratio is None
    assert reading.faults == ()


def test_the_library_is_asked_first_and_tells_limits_and_throttling():
    host = recorded("gaudi", "synthetic-gaudi3-library")
    outcome = found(host)
    well, ill = outcome.accelerators
    assert (well.device_class, well.memory_bytes) == ("INTEL_GAUDI3_128G", 128 * GIB)
    assert (well.power_limit_w, well.temperature_limit_c) == (850.0, 95.0)
    assert (well.health, ill.health) == (Health.HEALTHY, Health.DEGRADED)
    assert "In reset" in ill.evidence[0]
    reading = GaudiProbe().poll(host, outcome)[ill.identity]
    assert (reading.throttled, reading.clock_ratio) == (("thermal",), 0.5)
    assert reading.memory_used_bytes == 672 * MIB


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ("Operational", Health.HEALTHY),
        ("operational", Health.HEALTHY),
        ("Malfunction", Health.LOST),
        ("Needs Reset", Health.DEGRADED),
    ],
)
def test_the_drivers_word_decides_health(status, health):
    host = in_memory("gaudi", BOARD).but({f"{FIRST}/status": f"{status}\n"})
    outcome = found(host)
    first = outcome.accelerators[0]
    assert first.health is health
    faults = GaudiProbe().poll(host, outcome)[first.identity].faults
    assert bool(faults) == (health is not Health.HEALTHY)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "\ufeff\x1b[1mWARNING: log folder\x1b[0m\n" + text.replace("\n", "\r\n"),
        lambda text: text.replace(" MiB", "").replace(" C,", ",").replace(" W,", ","),
        lambda text: text.replace(", ", ","),
        lambda text: text.replace("0000:33", "00000000:33").upper().replace("INDEX", "index"),
    ],
    ids=["noise", "nounits", "narrow", "upper"],
)
def test_the_form_of_the_table_does_not_matter(edit):
    plainly = found(recorded("gaudi", BOARD)).accelerators
    other = found(changed(edit)).accelerators
    assert [(a.pci, a.handle, a.memory_bytes, a.device_class) for a in other] == [
        (a.pci, a.handle, a.memory_bytes, a.device_class) for a in plainly
    ]


@pytest.mark.parametrize("size", ["-98304 MiB", f"{2**64} MiB", "N/A", "many", "0 MiB"])
def test_nonsense_memory_is_unknown(size):
    host = changed(lambda text: text.replace("98304 MiB", size, 1))
    first, second, *_ = found(host).accelerators
    assert (first.memory_bytes, second.memory_bytes) == (None, 96 * GIB)
    assert first.device_class == "INTEL_GAUDI2_96G", "the PCI id tells what it is"


def test_an_address_that_repeats_is_one_card():
    def twice(text: str) -> str:
        return text + text.splitlines()[1] + "\n"

    assert len(found(changed(twice)).accelerators) == 8


def test_a_row_that_is_cut_is_a_card_that_is_missing():
    outcome = found(changed(lambda text: text[: text.index("0000:9b:00.0")]))
    assert len(outcome.accelerators) == 7
    assert "0000:9b:00.0" in outcome.broken[0].reason


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "not installed"),
        (Completed(rc=0, out="  \n", err=""), "printed nothing"),
        (Completed(rc=-9, out="", err="", ended="timeout"), "did not answer"),
        (Completed(rc=-9, out="", err="", ended="output_cap"), "without end"),
        (Completed(rc=1, out="", err="Failed to initialise HLML"), "HLML"),
        (Completed(rc=0, out="\ufffd,\x00\n,,,\n", err=""), "no card"),
    ],
)
def test_cards_on_pci_are_never_silently_absent(answer, says):
    tools = {} if answer is None else {STATIC: answer}
    host = in_memory("gaudi", BOARD).but({}, tools=tools)
    outcome = GaudiProbe().probe(host, NODE)
    assert isinstance(outcome, Broken)
    assert says in outcome.reason
    assert "8 Gaudi cards" in outcome.reason
    assert "habanalabs" in outcome.hint
    assert GaudiProbe().poll(host, Found()) == {}


def test_other_cards_are_not_gaudi():
    host = in_memory("gaudi", BOARD)
    other = {p: t.replace("0x1da3", "0x10de") for p, t in host.files.items()}
    assert GaudiProbe().probe(host.but(other), NODE) == Absent()


def test_an_unknown_card_gets_a_class_of_its_own():
    def rename(text: str) -> str:
        return text.replace("HL-225", "HL-999").replace("98304 MiB", "262144 MiB")

    outcome = found(changed(rename))
    assert {c.name for c in outcome.classes} == {"INTEL_GAUDI_HL_999_256G"}


def vendor_library(**functions):
    """A stand-in for pyhlml with one card that knows only what is given."""

    def silent(*_given):
        raise RuntimeError("not supported")

    names = (
        "hlmlGetDriverVersion hlmlDeviceGetMemoryInfo hlmlDeviceGetPCIInfo hlmlDeviceGetName "
        "hlmlDeviceGetUtilizationRates hlmlDeviceGetUUID hlmlDeviceGetSerial hlmlDeviceGetModuleID "
        "hlmlDeviceGetTemperature hlmlDeviceGetPowerUsage hlmlDeviceGetPowerManagementLimit "
        "hlmlDeviceGetTemperatureThreshold hlmlDeviceGetCurrentClocksThrottleReasons "
        "hlmlDeviceGetClockInfo hlmlDeviceGetMaxClockInfo hlmlDeviceGetReplacedRowsPendingStatus"
    )
    made = {
        "hlmlInit": lambda: None,
        "hlmlDeviceGetCount": lambda: 1,
        "hlmlDeviceGetHandleByIndex": lambda index: index,
    }
    return SimpleNamespace(**(dict.fromkeys(names.split(), silent) | made | functions))


def test_the_library_script_leaves_out_what_a_card_does_not_tell(monkeypatch):
    stand_in = vendor_library(
        hlmlDeviceGetUUID=lambda handle: b"01P0-HL2080A0",
        hlmlDeviceGetPowerUsage=lambda handle: 412000,
        hlmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=96 * GIB, used=7),
    )
    monkeypatch.setitem(sys.modules, "pyhlml", stand_in)
    script = runpy.run_path(str(Path(actors.__file__).parent / "libraries" / "hlml.py"))
    (card,) = script["answer"]("devices")
    assert card == {
        "uuid": "01P0-HL2080A0",
        "power.draw": 412.0,
        "memory.total": 96 * GIB,
        "memory.used": 7,
        "driver_version": None,
    }
    with pytest.raises(ValueError, match="else"):
        script["answer"]("something else")
