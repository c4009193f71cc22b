"""What Rebellions' management daemon says, through `actors/libraries/rbln_daemon.py`.

Decides where the daemon listens, which units it means and how long an event speaks against a device. It must not know
gRPC.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from placement.units import GIB

from ..host import Host
from ..quantities import (
    identifier,
    measure,
    pci_address,
    power_w,
    ratio,
    temperature_c,
    text_of,
    whole,
)
from ..report import Reading
from .rbln_smi import NAME, group_of
from .rbln_told import Told, by_state, in_performance_state

LIBRARY = "rbln_daemon"
TIMEOUT_S = 1.5
PORT_ENV = "RBLN_SMD_PORT"
PORT = 50051
SOCKET = "/var/run/rbln.sock"

EVENT_S = 60.0
"""So long an event speaks against its device; the daemon tells old ones again, also of boots before this one."""

EVENTS = {
    0: "hard reset",
    1: "hard reset of its RSD group",
    2: "TDR: the driver gave up waiting for it",
    3: "command processor event",
    4: "core dump",
}
"""Sources of events by number, as the daemon's interface lists them."""

_LISTENS = re.compile(
    r"^[ \t]*[0-9]{1,9}: [0-9A-Fa-f]+:([0-9A-Fa-f]{4}) [0-9A-Fa-f]+:0000 0A ", re.MULTILINE
)


def place_of_daemon(host: Host) -> str | None:
    """Where it listens on this machine, as the library's questions name it; None when it does not seem to run."""
    named = whole(host.env(PORT_ENV), most=65535)
    if named:
        return f"tcp.{named}"
    if host.access(SOCKET) == "ok":
        return "socket"
    tables = (host.read(f"/proc/net/{name}") or "" for name in ("tcp", "tcp6"))
    ports = (int(port, 16) for table in tables for port in _LISTENS.findall(table))
    return f"tcp.{PORT}" if PORT in ports else None


def rows_of_daemon(host: Host, place: str) -> tuple[Told, ...] | None:
    """Its devices; None when it does not answer."""
    said = _asked(host, f"devices.{place}")
    if said is None:
        return None
    infos = {text_of(i.get("name")): i for i in _rows(said, "infos")}
    places = {text_of(p.get("device_name")): p for p in _rows(said, "places")}
    named = [(text_of(d.get("name")), d) for d in _rows(said, "devices")]
    rows = (_told(d, infos.get(name, {}), places.get(name, {})) for name, d in named)
    return tuple(row for row in rows if row is not None)


def readings_of_daemon(host: Host, place: str) -> dict[str, Reading] | None:
    """What its devices do now, by kernel name; power is the whole card's. None when it does not answer."""
    said = _asked(host, f"live.{place}")
    if said is None:
        return None
    faults = _faults(host, _rows(said, "events"))
    read = {text_of(i.get("name")): _reading(i) for i in _rows(said, "infos")}
    return {
        name: replace(reading, faults=(*reading.faults, *faults[name]))
        for name, reading in read.items()
        if name
    }


def _asked(host: Host, question: str) -> Mapping[str, Any] | None:
    answer = host.ask(LIBRARY, question, TIMEOUT_S)
    if answer is None or answer.rc or answer.ended != "exit":
        return None
    try:
        said = json.loads(answer.out)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and not said.get("error") else None


def _told(
    device: Mapping[str, Any], info: Mapping[str, Any], place: Mapping[str, Any]
) -> Told | None:
    name = text_of(device.get("name"))
    if name is None or not NAME.fullmatch(name):
        return None
    return Told(
        name=name,
        product=text_of(device.get("card_name")),
        device_id=_id(device.get("dev_id")),
        uuid=identifier(device.get("uuid")),
        pci=pci_address(device.get("pci_bus_id")),
        numa_node=whole(place.get("numa_node"), most=4095),
        driver=text_of(info.get("drv_version")),
        firmware=text_of(info.get("fw_version")),
        memory_bytes=_gib(info.get("total_mem")) or None,
        group=group_of(place.get("rsd_group")),
        evidence=_evidence(info),
    )


def _reading(info: Mapping[str, Any]) -> Reading:
    """One device's figures; all unknown where the daemon says that they are invalid."""
    if info.get("err_status"):
        return Reading(faults=_evidence(info))
    reading = Reading(
        memory_used_bytes=_gib(info.get("used_mem")),
        utilisation=ratio(info.get("utilization")),
        temperature_c=temperature_c(_scaled(info.get("temperature"), 1e-3, above=250.0)),
        power_w=power_w(_scaled(info.get("watt"), 1e-6, above=20_000.0)),
        faults=_evidence(info),
    )
    return in_performance_state(reading, whole(info.get("p_state")))


def _evidence(info: Mapping[str, Any]) -> tuple[str, ...]:
    if info.get("err_status"):
        return ("the daemon cannot read it",)
    return by_state(whole(info.get("dev_status")), "the daemon")


def _scaled(given: object, factor: float, *, above: float) -> float | None:
    """Older daemons say degrees and watts, newer ones thousandths and millionths; 0 is a field that was not filled."""
    value = measure(given)
    if not value:
        return None
    return value * factor if value > above else value


def _gib(given: object) -> int | None:
    """Bytes of a number of GiB, which may be 0."""
    value = measure(given)
    return round(value * GIB) if value is not None and 0.0 <= value < 2**17 else None


def _faults(host: Host, events: Sequence[Mapping[str, Any]]) -> Mapping[str, tuple[str, ...]]:
    """Sentences for the events of the last minute, by device; each kind once."""
    found: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    uptime = measure((host.read("/proc/uptime") or "").partition(" ")[0])
    for event in events:
        at, name = measure(event.get("kernel_time")), text_of(event.get("dev_name"))
        if uptime is None or at is None or name is None or not 0.0 <= uptime - at <= EVENT_S:
            continue
        source = whole(event.get("value"))
        words = EVENTS.get(-1 if source is None else source, f"event {source}")
        if words not in found[name]:
            found[name] = (*found[name], words)
    return found


def _rows(said: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    given = said.get(key)
    return [row for row in given if isinstance(row, dict)] if isinstance(given, list) else []


def _id(given: object) -> str | None:
    value = whole(f"0x{given}", most=0xFFFF) if isinstance(given, str) else None
    return None if value is None else f"{value:04x}"
