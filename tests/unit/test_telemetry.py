"""The gauges of devices follow the report, and nothing unknown is measured."""

from __future__ import annotations

from actors.report import DeviceFacts, NodeReport, Reading
from actors.telemetry import GAUGES, LABELS, Sample, samples
from actors.versions import versions
from placement.devices import Device, Health
from placement.ids import DeviceId, NodeId

NODE = NodeId("n")


def card(number: int, **more) -> Device:
    return Device(
        id=DeviceId(f"n/{number}"),
        node=NODE,
        device_class="FURIOSA_RNGD",
        memory_bytes=48,
        identity=f"furiosa:R{number}@0000:27:00.0",
        **more,
    )


def told(*devices: Device, **more) -> dict[tuple[str, str], Sample]:
    report = NodeReport(node=NODE, hostname="h", versions=versions(), devices=devices, **more)
    return {
        (s.gauge.name.removeprefix("shardyard_device_"), s.labels.get("state", "")): s
        for s in samples(report)
    }


def values(found: dict[tuple[str, str], Sample]) -> dict[str, float]:
    return {name: s.value for (name, state), s in found.items() if not state}


def test_every_value_of_a_reading_is_a_gauge_in_si_units():
    reading = Reading(
        memory_used_bytes=7,
        utilisation=0.5,
        temperature_c=41.0,
        power_w=120.5,
        clock_ratio=0.75,
        throttled=("power",),
    )
    found = told(
        card(0),
        facts=(DeviceFacts(device=DeviceId("n/0"), memory_bytes=50),),
        readings=((DeviceId("n/0"), reading),),
    )
    assert values(found) == {
        "power_watts": 120.5,
        "temperature_celsius": 41.0,
        "utilization_ratio": 0.5,
        "memory_used_bytes": 7.0,
        "memory_bytes": 50.0,
        "clock_ratio": 0.75,
        "throttled": 1.0,
    }


def test_what_is_unknown_is_left_out_and_what_is_zero_is_not():
    assert set(values(told(card(0)))) == {"memory_bytes"}
    found = told(card(0), readings=((DeviceId("n/0"), Reading(power_w=0.0)),))
    assert values(found) == {"memory_bytes": 48.0, "power_watts": 0.0, "throttled": 0.0}


def test_exactly_one_state_is_one():
    found = told(card(0, health=Health.DEGRADED))
    states = {state: s.value for (name, state), s in found.items() if name == "health"}
    assert states == {"degraded": 1.0, "healthy": 0.0, "lost": 0.0, "recovered": 0.0}


def test_labels_are_those_that_were_declared():
    report = NodeReport(
        node=NODE,
        hostname="h",
        versions=versions(),
        devices=(card(0), card(1, health=Health.LOST)),
        readings=((DeviceId("n/1"), Reading(utilisation=1.0)),),
    )
    found = list(samples(report))
    assert {s.gauge for s in found} <= set(GAUGES)
    assert all(tuple(s.labels) == s.gauge.labels for s in found)
    assert all(s.gauge.labels[: len(LABELS)] == LABELS for s in found)
    assert {s.labels["vendor"] for s in found} == {"furiosa"}
    assert {s.labels["device"] for s in found} == {"n/0", "n/1"}


def test_a_lost_device_draws_nothing_that_could_be_told():
    found = told(card(0, health=Health.LOST), readings=((DeviceId("n/0"), Reading(power_w=300.0)),))
    assert set(values(found)) == {"memory_bytes"}


def test_names_have_their_unit_and_are_there_once():
    names = [gauge.name for gauge in GAUGES]
    assert len(set(names)) == len(names)
    assert all(name.startswith("shardyard_device_") for name in names)
