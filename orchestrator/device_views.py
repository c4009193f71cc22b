"""Devices for people: what there is, grouped, and what each device does now.

Decides columns, units and words on a terminal. Reads the documents of the control API, in which anything but a device's
id may be missing; a value that is not known is `-`, never 0. It must not fetch anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from placement.units import GIB, gib

from .views import Row, problems_view, short_ids, table

NOTHING = "-"
_COLUMNS = ("NODE", "RACK", "DEVICES", "CLASS", "COUNT", "MEMORY", "STATE")
_LIVE = ("UTIL", "USED", "TEMP", "POWER")
_WATCHED = (
    "NODE",
    "DEVICE",
    "CLASS",
    "UTIL",
    "MEM",
    "TEMP",
    "POWER",
    "CLOCK",
    "STATE",
    "REPLICA",
)


# -- what there is --------------------------------------------------------------------------------------------------


def devices_view(document: Row) -> list[RenderableType]:
    """One row per run of equal devices of a node, then what speaks against single ones.

    Columns of live values are there only where somebody tells one.
    """
    readings = _readings(document)
    rows = [
        (*_run_row(node, run), *_run_live(run, readings))
        for node in document["inventory"]["nodes"]
        for run in _runs(node)
    ]
    names = (*_COLUMNS[:-1], *_LIVE, _COLUMNS[-1])
    ordered = [(*row[:6], *row[7:], row[6]) for row in rows]
    told = [k for k, name in enumerate(names) if name not in _LIVE or _told(ordered, k)]
    shown = table((names[k] for k in told), ([row[k] for k in told] for row in ordered))
    return [shown, *_unwell(document), *problems_view(document.get("problems", ()))]


def _told(rows: Iterable[Sequence[object]], column: int) -> bool:
    return any(row[column] != NOTHING for row in rows)


def _runs(node: Row) -> list[list[Row]]:
    runs: list[list[Row]] = []
    for device in node["devices"]:
        if runs and _kin(runs[-1][-1]) == _kin(device):
            runs[-1].append(device)
        else:
            runs.append([device])
    return runs


def _kin(device: Row) -> tuple[object, ...]:
    keys = ("device_class", "memory_bytes", "shares", "health", "emulated", "speed")
    return tuple(device.get(key) for key in keys)


def _run_row(node: Row, run: Sequence[Row]) -> tuple[object, ...]:
    first, last = run[0], run[-1]
    ids = first["id"] if len(run) == 1 else f"{first['id']} - {last['id'].rpartition('/')[2]}"
    shares = first.get("shares", 1)
    return (
        node["id"],
        node.get("rack") or NOTHING,
        ids,
        first.get("device_class", NOTHING),
        f"{shares} cores" if shares > 1 else len(run),
        gib(first.get("memory_bytes", 0)),
        _state(node, first),
    )


def _state(node: Row, device: Row) -> str:
    state = device.get("health", "healthy")
    if node.get("cordoned") and state == "healthy":
        state = f"cordoned {node.get('cordon_reason', '')}".rstrip()
    speed = device.get("speed", 1.0)
    slowed = f" at {speed:.0%} speed" if speed < 1.0 else ""
    return state + slowed + (" EMULATED" if device.get("emulated") else "")


def _run_live(run: Sequence[Row], readings: Mapping[str, Row]) -> tuple[str, ...]:
    """Of a run, from its lowest to its highest value."""
    of_run = [readings.get(device["id"], {}) for device in run]
    return (
        _span(of_run, "utilisation", 100.0, "%"),
        _span(of_run, "memory_used_bytes", 1.0 / GIB, " GiB", digits=1),
        _span(of_run, "temperature_c", 1.0, " C"),
        _span(of_run, "power_w", 1.0, " W"),
    )


def _span(readings: Iterable[Row], key: str, factor: float, unit: str, digits: int = 0) -> str:
    values = [r[key] * factor for r in readings if r.get(key) is not None]
    if not values:
        return NOTHING
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{low}{unit}" if low == high else f"{low}-{high}{unit}"


def _unwell(document: Row) -> Iterator[Text]:
    facts = _facts(document)
    for node in document["inventory"]["nodes"]:
        for device in node["devices"]:
            why = _evidence(facts.get(device["id"], {}))
            if why and device.get("health", "healthy") != "healthy":
                yield Text(f"{device['id']} is {device['health']}: {why}", style="yellow")


# -- what they do now -----------------------------------------------------------------------------------------------


def watch_view(document: Row, replicas: Iterable[Row]) -> RenderableType:
    """Every device with what it does now, and what runs on it."""
    facts, readings, slots = _facts(document), _readings(document), _slots(replicas)
    rows = [
        (*_now(device, facts.get(key, {}), readings.get(key, {}), node), slots.get(key, NOTHING))
        for node in document["inventory"]["nodes"]
        for device in node["devices"]
        for key in (device["id"],)
    ]
    return Group(_table(rows), *problems_view(document.get("problems", ())))


def _table(rows: Iterable[Sequence[object]]) -> Table:
    return table(_WATCHED, rows)


def _now(device: Row, facts: Row, reading: Row, node: Row) -> tuple[object, ...]:
    node_id, _, position = device["id"].rpartition("/")
    total = facts.get("memory_bytes") or device.get("memory_bytes")
    return (
        node_id,
        position,
        device.get("device_class", NOTHING),
        _percent(reading.get("utilisation")),
        _of(_in_gib(reading.get("memory_used_bytes")), _in_gib(total), "GiB"),
        _with_unit(_rounded(reading.get("temperature_c")), "C"),
        _of(_rounded(reading.get("power_w")), _rounded(facts.get("power_limit_w")), "W"),
        _percent(reading.get("clock_ratio")),
        _state(node, device) + _because(facts, reading),
    )


def _because(facts: Row, reading: Row) -> str:
    """Why its state is what it is, and what slows it down."""
    evidence = _evidence(facts)
    throttled = ", ".join(reading.get("throttled") or ())
    return (f": {evidence}" if evidence else "") + (
        f" (throttled: {throttled})" if throttled else ""
    )


def _evidence(facts: Row) -> str:
    """Each sentence once: a look and a reading may both have it."""
    return "; ".join(dict.fromkeys(facts.get("evidence") or ()))


def _slots(replicas: Iterable[Row]) -> dict[str, str]:
    """Replicas by device; a processor may carry several."""
    found: dict[str, list[str]] = {}
    for replica in replicas:
        for device in replica.get("devices", ()):
            found.setdefault(device, []).append(replica["slot"])
    return {device: " ".join(slots) for device, slots in found.items()}


# -- how they are joined --------------------------------------------------------------------------------------------


def bonds_view(document: Row) -> Table:
    """The sets of devices that are joined, closest first."""
    rows = [_bond_row(bond) for bond in document.get("bonds") or ()]
    return table(("DEVICES", "LINK", "LANES", "GB/S"), rows)


def _bond_row(bond: Row) -> tuple[object, ...]:
    link: Mapping[str, Any] = bond.get("link") or {}
    rate = link.get("bytes_per_s")
    return (
        short_ids(bond["members"]),
        link.get("kind", NOTHING),
        link.get("lanes") or NOTHING,
        NOTHING if rate is None else f"{rate / 1e9:.0f}",
    )


# -- values ---------------------------------------------------------------------------------------------------------


def _facts(document: Row) -> dict[str, Row]:
    return {facts["device"]: facts for facts in document.get("facts") or ()}


def _readings(document: Row) -> Mapping[str, Row]:
    return document.get("readings") or {}


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def _rounded(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def _in_gib(value: int | None) -> str:
    return NOTHING if value is None else f"{value / GIB:.1f}"


def _with_unit(value: str, unit: str) -> str:
    return value if value == NOTHING else f"{value} {unit}"


def _of(value: str, limit: str, unit: str) -> str:
    """A value and what bounds it, either of which may be unknown."""
    if value == limit == NOTHING:
        return NOTHING
    return f"{value} {unit}" if limit == NOTHING else f"{value}/{limit} {unit}"
