"""Which metrics a node has of its devices, each declared once, and their values in a report. Pure.

Labels are names of ours and of hardware, never of requests or processes, so their number is bounded by the devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from placement.devices import Device, Health

from .report import DeviceFacts, NodeReport, Reading

LABELS = ("node", "device", "device_class", "vendor")
STATE_LABELS = (*LABELS, "state")


@dataclass(frozen=True, slots=True)
class Gauge:
    """One metric: its name with the unit, what it is, and its labels."""

    name: str
    help: str
    labels: tuple[str, ...] = LABELS


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a metric."""

    gauge: Gauge
    labels: Mapping[str, str]
    value: float


POWER = Gauge("shardyard_device_power_watts", "Electrical power that a device draws.")
TEMPERATURE = Gauge("shardyard_device_temperature_celsius", "Temperature of a device.")
UTILIZATION = Gauge("shardyard_device_utilization_ratio", "Busy fraction of a device, 0 to 1.")
MEMORY_USED = Gauge("shardyard_device_memory_used_bytes", "Memory in use on a device.")
MEMORY = Gauge("shardyard_device_memory_bytes", "All memory of a device.")
CLOCK = Gauge("shardyard_device_clock_ratio", "Clock of a device over its highest clock, 0 to 1.")
THROTTLED = Gauge("shardyard_device_throttled", "1 while a device slows itself down.")
HEALTH = Gauge("shardyard_device_health", "1 for the state that a device is in.", STATE_LABELS)

GAUGES = (POWER, TEMPERATURE, UTILIZATION, MEMORY_USED, MEMORY, CLOCK, THROTTLED, HEALTH)


def samples(report: NodeReport) -> Iterator[Sample]:
    """The values of a report; what a device does not tell has none, which is not 0."""
    facts = {about.device: about for about in report.facts}
    readings = dict(report.readings)
    for device in report.devices:
        labels = {
            "node": report.node,
            "device": device.id,
            "device_class": device.device_class,
            "vendor": device.identity.partition(":")[0] or "declared",
        }
        for health in Health:
            yield Sample(HEALTH, {**labels, "state": health}, float(device.health is health))
        values = _values(device, facts.get(device.id), readings.get(device.id, Reading()))
        yield from (Sample(g, labels, float(v)) for g, v in values if v is not None)


def _values(
    device: Device, facts: DeviceFacts | None, reading: Reading
) -> Iterator[tuple[Gauge, float | None]]:
    whole = facts.memory_bytes if facts is not None else None
    yield MEMORY, whole or device.memory_bytes or None
    if device.health is Health.LOST:
        return
    yield POWER, reading.power_w
    yield TEMPERATURE, reading.temperature_c
    yield UTILIZATION, reading.utilisation
    yield MEMORY_USED, reading.memory_used_bytes
    yield CLOCK, reading.clock_ratio
    yield THROTTLED, float(bool(reading.throttled)) if reading != Reading() else None
