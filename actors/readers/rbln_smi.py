"""Reads what `rbln-smi -j` prints, or its predecessor `rbln-stat -j`.

Knows the keys of both and their units. The index `npu` counts inside a group and repeats, and the list of contexts
changes its types under load: neither is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..host import Host
from ..probe import Broken
from ..quantities import (
    document,
    identifier,
    pci_address,
    power_w,
    ratio,
    size_bytes,
    temperature_c,
    text_of,
    used_bytes,
    whole,
)
from ..report import Reading
from ..tools import Completed
from .rbln_told import Told, in_performance_state

TOOLS = ("rbln-smi", "rbln-stat")
TIMEOUT_S = 2.0
NAME = re.compile(r"rbln(0|[1-9][0-9]{0,3})")
"""How the kernel calls a device."""


def rows_of_tool(host: Host, timeout_s: float = TIMEOUT_S) -> tuple[Told, ...] | Broken | None:
    """What the first installed of both tools says; None when there is none."""
    for tool in TOOLS:
        answer = host.run([tool, "-j"], timeout_s)
        if answer is not None:
            rows = rows_of(document(answer.out)) if answer.ended == "exit" else None
            return rows if rows is not None else _broken(tool, answer)
    return None


def rows_of(said: Any) -> tuple[Told, ...] | None:
    """The devices of a document; None when it has no list of them."""
    devices = said.get("devices") if isinstance(said, dict) else None
    if not isinstance(devices, list):
        return None
    driver = text_of(said.get("KMD_version"))
    rows = (_row(d, driver) for d in devices if isinstance(d, dict))
    return tuple(row for row in rows if row is not None)


def performance_state(given: object) -> int | None:
    """The number of a state.

    >>> performance_state("P14"), performance_state(2), performance_state("Px")
    (14, 2, None)
    """
    return whole(given.upper().removeprefix("P") if isinstance(given, str) else given, most=31)


def _row(device: Mapping[str, Any], driver: str | None) -> Told | None:
    name = text_of(device.get("device"))
    if name is None or not NAME.fullmatch(name):
        return None
    pci, memory = _mapping(device.get("pci")), _mapping(device.get("memory"))
    status = text_of(device.get("status"))
    reading = Reading(
        memory_used_bytes=used_bytes(memory.get("used")),
        utilisation=ratio(device.get("util")),
        temperature_c=temperature_c(device.get("temperature")),
        power_w=power_w(device.get("card_power")),
    )
    return Told(
        name=name,
        product=text_of(device.get("name")),
        device_id=_id(pci.get("dev")),
        uuid=identifier(device.get("uuid")),
        board=identifier(device.get("sid")),
        pci=pci_address(pci.get("bus_id")),
        numa_node=whole(pci.get("numa_node"), most=4095),
        driver=driver,
        firmware=text_of(device.get("fw_ver")),
        memory_bytes=size_bytes(memory.get("total")),
        group=group_of(device.get("group_id")),
        lanes=_lanes(pci),
        evidence=(f"rbln-smi: status {status}",) if status and status.lower() != "normal" else (),
        reading=in_performance_state(reading, performance_state(device.get("pstate"))),
    )


def group_of(given: object) -> str:
    """The RSD group; 0 is where every device is that nobody grouped.

    >>> group_of("1"), group_of(2), group_of("0"), group_of(None)
    ('1', '2', '', '')
    """
    number = whole(given)
    return str(number) if number else ""


def _lanes(pci: Mapping[str, Any]) -> str:
    speed, width = text_of(pci.get("link_speed")), whole(pci.get("link_width"), most=64)
    return f"{speed} x{width}" if speed and width else ""


def _id(given: object) -> str | None:
    value = whole(given, most=0xFFFF)
    return f"{value:04x}" if value is not None and str(given).lower().startswith("0x") else None


def _mapping(given: object) -> Mapping[str, Any]:
    return given if isinstance(given, dict) else {}


def _broken(tool: str, answer: Completed) -> Broken:
    said = text_of(answer.err) or text_of(answer.out) or "nothing was printed"
    how = {"timeout": "did not end in time", "output_cap": "printed without end"}.get(
        answer.ended, f"ended with status {answer.rc} and without a list of devices: {said}"
    )
    return Broken(
        reason=f"{tool} -j {how}",
        hint=f"run {tool} -j on the node; if it fails there too, look for rebellions in dmesg",
    )
