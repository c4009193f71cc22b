"""Devices on a terminal: what is known is shown in units for people, what is not is a dash."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from orchestrator.device_views import bonds_view, devices_view, watch_view
from placement.units import GIB


def device(number: int, **more: Any) -> dict[str, Any]:
    plain = {
        "id": f"gpu-1/{number}",
        "device_class": "NVIDIA_H100_80G",
        "memory_bytes": 72 * GIB,
        "shares": 1,
        "health": "healthy",
        "emulated": False,
        "speed": 1.0,
    }
    return plain | more


def document(*devices: dict[str, Any], **more: Any) -> dict[str, Any]:
    node = {"id": "gpu-1", "rack": "r1", "devices": list(devices)}
    return {"inventory": {"nodes": [node]}, "problems": [], **more}


def printed(*parts: Any) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False, markup=False)
    for part in parts:
        console.print(part)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


FACTS = {"device": "gpu-1/0", "memory_bytes": 80 * GIB, "power_limit_w": 700.0}
READING = {
    "memory_used_bytes": 12 * GIB,
    "utilisation": 0.834,
    "temperature_c": 61.4,
    "power_w": 412.6,
    "clock_ratio": 0.9,
    "throttled": [],
}


def test_watching_shows_every_value_with_its_unit_and_limit():
    told = document(device(0), facts=[FACTS], readings={"gpu-1/0": READING})
    replicas = [{"slot": "m/r0", "devices": ["gpu-1/0"]}, {"slot": "m/r1", "devices": []}]
    _, line = printed(watch_view(told, replicas))
    assert cells(line) == [
        "gpu-1",
        "0",
        "NVIDIA_H100_80G",
        "83%",
        "12.0/80.0 GiB",
        "61 C",
        "413/700 W",
        "90%",
        "healthy",
        "m/r0",
    ]


def test_a_controller_that_knows_no_readings_gives_dashes():
    _, line = printed(watch_view(document(device(0)), []))
    assert cells(line) == [
        *("gpu-1", "0", "NVIDIA_H100_80G", "-", "-/72.0 GiB", "-", "-", "-", "healthy", "-")
    ]


def test_nothing_known_is_not_zero_and_zero_is_shown():
    idle = {key: 0 if key != "throttled" else [] for key in READING}
    told = document(device(0), readings={"gpu-1/0": idle})
    _, line = printed(watch_view(told, []))
    assert cells(line)[3:8] == ["0%", "0.0/72.0 GiB", "0 C", "0 W", "0%"]


def test_a_state_has_its_evidence_and_what_throttles():
    facts = {"device": "gpu-1/0", "evidence": ["Xid 79: fallen off the bus"]}
    hot = READING | {"throttled": ["thermal", "power"]}
    told = document(
        device(0, health="degraded", speed=0.75), facts=[facts], readings={"gpu-1/0": hot}
    )
    _, line = printed(watch_view(told, []))
    assert "degraded at 75% speed: Xid 79: fallen off the bus (throttled: thermal, power)" in line


def test_a_processor_names_every_replica_on_it():
    replicas = [{"slot": f"m/r{k}", "devices": ["gpu-1/cpu0"]} for k in range(2)]
    _, line = printed(watch_view(document(device(0, id="gpu-1/cpu0")), replicas))
    assert line.endswith("m/r0 m/r1")


def test_equal_devices_are_one_row_and_live_columns_need_a_value():
    header, line = printed(*devices_view(document(device(0), device(1))))
    assert header.split() == ["NODE", "RACK", "DEVICES", "CLASS", "COUNT", "MEMORY", "STATE"]
    assert cells(line) == [
        *("gpu-1", "r1", "gpu-1/0 - 1", "NVIDIA_H100_80G", "2", "72.0 GiB", "healthy")
    ]


def test_values_of_a_row_run_from_the_lowest_to_the_highest():
    readings = {
        "gpu-1/0": {"temperature_c": 41.0, "power_w": 100.0},
        "gpu-1/1": {"temperature_c": 55.0, "power_w": None},
    }
    header, line = printed(*devices_view(document(device(0), device(1), readings=readings)))
    assert header.split()[-3:] == ["TEMP", "POWER", "STATE"]
    assert cells(line)[-3:] == ["41-55 C", "100 W", "healthy"]


def test_what_is_not_well_is_named_with_its_evidence():
    facts = [{"device": "gpu-1/1", "evidence": ["is not there any more"]}]
    told = document(device(0), device(1, health="lost"), facts=facts)
    lines = printed(*devices_view(told))
    assert len(lines) == 4
    assert lines[-1] == "gpu-1/1 is lost: is not there any more"


def test_problems_follow_with_the_next_command():
    problem = {"where": "gpu-1: probe amd", "reason": "no answer", "hint": "rocm-smi"}
    told = document(device(0)) | {"problems": [problem]}
    for shown in (printed(*devices_view(told)), printed(watch_view(told, []))):
        assert shown[-1] == "gpu-1: probe amd: no answer  -> rocm-smi"


def test_a_cordoned_node_says_why():
    told = document(device(0))
    told["inventory"]["nodes"][0] |= {"cordoned": True, "cordon_reason": "other version"}
    assert "cordoned other version" in printed(*devices_view(told))[1]


@pytest.mark.parametrize("bonds", [None, []])
def test_devices_of_which_nobody_said_how_they_are_joined(bonds):
    assert len(printed(bonds_view(document(device(0), bonds=bonds)))) == 1


def test_links_are_shown_by_set():
    link = {"kind": "direct", "lanes": 18, "bytes_per_s": 450e9}
    bonds = [
        {"members": ["gpu-1/0", "gpu-1/1"], "link": link},
        {"members": ["gpu-1/2", "gpu-1/3"], "link": {"kind": "numa"}},
    ]
    _, first, second = printed(bonds_view(document(bonds=bonds)))
    assert cells(first) == ["gpu-1/0,1", "direct", "18", "450"]
    assert cells(second) == ["gpu-1/2,3", "numa", "-", "-"]


@pytest.mark.parametrize("count", [0, 500])
@pytest.mark.parametrize("width", [10, 40, 200])
def test_any_number_of_devices_fits_any_terminal(count, width):
    many = document(*(device(k) for k in range(count)))
    out = io.StringIO()
    Console(file=out, width=width).print(watch_view(many, []), *devices_view(many))
    assert max(map(len, out.getvalue().splitlines())) <= width
    nobody = {"inventory": {"nodes": []}, "problems": []}
    assert len(printed(watch_view(nobody, []), *devices_view(nobody))) == 2
