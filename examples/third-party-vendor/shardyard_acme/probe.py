"""Finds Acme cards by the files of their driver: `/sys/class/acme/acmeN/{serial,memory_bytes,temperature_mc,state}`.

`ACME_SYSFS` names another folder than `/sys/class/acme`, so that the example runs on a machine without a card.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from actors.host import Host
from actors.probe import Absent, Accelerator, Broken, Found
from actors.report import Reading
from placement.devices import DeviceClass, Health, Kind
from placement.ids import NodeId

FOLDER = "/sys/class/acme"

X1 = DeviceClass(
    name="ACME_X1",
    vendor="acme",
    kind=Kind.NPU,
    memory_bytes=15 * 2**30,
    bandwidth_bytes_per_s=400e9,
    flops=(("fp16", 60e12), ("int8", 120e12)),
    power_w=75.0,
    idle_w=10.0,
    source="invented for this example",
)


class AcmeProbe:
    """See `actors.probe.LiveProbe`."""

    name: ClassVar[str] = "acme"
    watches: ClassVar[tuple[str, ...]] = (FOLDER,)

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """Every card whose driver tells a serial."""
        del node
        folder = host.env("ACME_SYSFS") or FOLDER
        cards = sorted(host.list(folder))
        if not cards:
            return Absent()
        found = [one for card in cards if (one := _accelerator(host, f"{folder}/{card}", card))]
        if not found:
            return Broken(reason=f"{folder} has cards without a serial", hint="update the driver")
        return Found(accelerators=tuple(found), classes=(X1,))

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """Temperatures, by identity."""
        folder = host.env("ACME_SYSFS") or FOLDER
        return {
            one.identity: Reading(temperature_c=_temperature(host, f"{folder}/acme{one.handle}"))
            for one in found.accelerators
        }


def _accelerator(host: Host, path: str, card: str) -> Accelerator | None:
    serial = (host.read(f"{path}/serial") or "").strip()
    memory = (host.read(f"{path}/memory_bytes") or "").strip()
    if not serial:
        return None
    well = (host.read(f"{path}/state") or "ok").strip() == "ok"
    return Accelerator(
        family="acme",
        product="Acme X1",
        device_class=X1.name,
        handle=card.removeprefix("acme"),
        serial=serial,
        memory_bytes=int(memory) if memory.isdecimal() else None,
        health=Health.HEALTHY if well else Health.DEGRADED,
        evidence=() if well else ("its driver says that it is not ok",),
    )


def _temperature(host: Host, path: str) -> float | None:
    text = (host.read(f"{path}/temperature_mc") or "").strip()
    return int(text) / 1000 if text.isdecimal() else None
