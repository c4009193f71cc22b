"""What Intel's tool `xpu-smi` says of GPUs: names and memory, where the kernel's driver does not tell them.

Decides how its words become values; sizes are numbers or texts by its version. Its UUID is made of the PCI address and
device id, so it names a place and not a card, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..endings import said
from ..host import Host
from ..quantities import document, identifier, pci_address, size_bytes, text_of

TIMEOUT_S = 1.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One GPU."""

    name: str | None = None
    serial: str | None = None
    memory_bytes: int | None = None
    driver: str | None = None


def discovery(host: Host) -> tuple[Mapping[str, Told], str]:
    """The physical GPUs by PCI address, and why there are none."""
    text, wrong = said("xpu-smi", host.run(["xpu-smi", "discovery", "-j"], TIMEOUT_S))
    told = document(text)
    rows = told.get("device_list") if isinstance(told, dict) else None
    found: dict[str, Told] = {}
    for row in rows if isinstance(rows, list) else []:
        address = pci_address(row.get("pci_bdf_address")) if isinstance(row, dict) else None
        if address is None or row.get("device_function_type", "physical") != "physical":
            continue
        found[address] = Told(
            name=text_of(row.get("device_name")),
            serial=identifier(row.get("serial_number")),
            memory_bytes=size_bytes(row.get("memory_physical_size_byte")),
            driver=text_of(row.get("driver_version")),
        )
    return found, "" if found else wrong or "xpu-smi lists no GPU that can be read"
