"""What Tenstorrent's tool `tt-smi` says of boards, where the kernel's driver does not tell it.

Decides how its words become values: it prints numbers as texts with blanks, and lists chips behind another one without a
PCI address. A snapshot reads the chips themselves, so it is not taken when sysfs says enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..endings import said
from ..host import Host
from ..quantities import document, identifier, pci_address, power_w, temperature_c, text_of

TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One chip with a PCI address. `memory_works`: whether its DRAM was trained; None = not told."""

    kind: str | None = None
    serial: str | None = None
    firmware: str | None = None
    power_limit_w: float | None = None
    temperature_limit_c: float | None = None
    memory_works: bool | None = None


def boards(host: Host) -> tuple[Mapping[str, Board], str]:
    """Chips by PCI address, and why there are none."""
    text, wrong = said("tt-smi", host.run(["tt-smi", "-s"], TIMEOUT_S))
    told = document(text)
    rows = told.get("device_info") if isinstance(told, dict) else None
    if wrong or not isinstance(rows, list):
        return {}, wrong or "tt-smi's answer makes no sense"
    found = {
        address: _board(row)
        for row in rows
        if isinstance(row, dict)
        and (address := pci_address(_part(row, "board_info").get("bus_id")))
    }
    return found, "" if found else "tt-smi lists no board"


def _board(row: Mapping[str, Any]) -> Board:
    info, limits = _part(row, "board_info"), _part(row, "limits")
    works = info.get("dram_status")
    return Board(
        kind=text_of(info.get("board_type")),
        serial=identifier(info.get("board_id")),
        firmware=text_of(_part(row, "firmwares").get("fw_bundle_version")),
        power_limit_w=power_w(limits.get("tdp_limit")),
        temperature_limit_c=temperature_c(limits.get("thm_limit")),
        memory_works=works if isinstance(works, bool) else None,
    )


def _part(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = row.get(name)
    return part if isinstance(part, dict) else {}
