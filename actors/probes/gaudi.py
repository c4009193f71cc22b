"""Intel's Gaudi accelerators: sysfs tells which there are, the vendor's library or `hl-smi` what they do.

Decides which of both is asked and what follows from the answer. It must not know how fast a card is (catalog).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from placement.devices import DeviceClass, Health, Kind
from placement.ids import NodeId
from placement.interconnect import Interconnect, LinkKind

from .. import pci
from ..endings import said
from ..host import Host
from ..offers import offered
from ..pci import PciFunction
from ..probe import Absent, Accelerator, Broken, Found
from ..product import class_of
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
from ..vendors import families

TIMEOUT_S = 1.8
POLL_TIMEOUT_S = 0.9
"""Of the library and of the tool that is asked where it fails."""
LIVE = "bus_id,memory.used,temperature.aip,power.draw,utilization.aip"
COLUMNS = f"index,module_id,uuid,serial,name,driver_version,memory.total,{LIVE}"
LINE_MOST = 4096
"""Characters of a line of the tool's table; a longer one is none."""
BOARD = 8
"""Cards of a baseboard, which are joined all to all by their own Ethernet ports."""

_CLASS = "/sys/class/accel"
_THROTTLE_BITS = ((1, "power"), (2, "thermal"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """What sysfs tells of a card; it is there even when the vendor's tools are not."""

    function: PciFunction
    module: int | None
    status: str | None


class GaudiProbe:
    """A card is known by its UUID and its PCI address; programs select it by its module, never by its index."""

    name: ClassVar[str] = "gaudi"
    watches: ClassVar[tuple[str, ...]] = (_CLASS, pci.DEVICES)

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`."""
        del node
        family = families()["gaudi"]
        functions = [
            f for f in pci.pci_functions(host, family.pci) if family.claims(f.vendor, f.kind)
        ]
        if not functions:
            return Absent()
        slots = _slots(host, functions)
        told, wrong = _told(host, COLUMNS, TIMEOUT_S)
        if not told:
            return Broken(
                reason=f"{len(functions)} Gaudi cards on PCI, but {wrong}", hint=_hint(functions)
            )
        return _found(slots, told)

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`."""
        told, _ = _told(host, LIVE, POLL_TIMEOUT_S)
        status = {a: _status(host, a) for a in (one.pci for one in found.accelerators) if a}
        return {
            one.identity: _reading(told[one.pci], status.get(one.pci))
            for one in found.accelerators
            if one.pci is not None and one.pci in told
        }


def _slots(host: Host, functions: Sequence[PciFunction]) -> dict[str, _Slot]:
    return {
        f.address: _Slot(
            function=f,
            module=whole(_attribute(host, f.address, "module_id"), most=255),
            status=_status(host, f.address),
        )
        for f in functions
    }


def _attribute(host: Host, address: str, name: str) -> str | None:
    return text_of(host.read(f"{pci.DEVICES}/{address}/{name}"))


def _status(host: Host, address: str) -> str | None:
    """The driver's word, e.g. `Operational`."""
    return _attribute(host, address, "status")


def _told(host: Host, columns: str, timeout_s: float) -> tuple[dict[str, Mapping[str, Any]], str]:
    """What the library, else the tool says, by PCI address; and why there is nothing."""
    answer = host.ask("hlml", "devices", timeout_s)
    rows = document(said("pyhlml", answer)[0])
    if found := _by_address(rows if isinstance(rows, list) else []):
        return found, ""
    text, wrong = said("hl-smi", host.run(["hl-smi", "-Q", columns, "-f", "csv"], timeout_s))
    return _by_address(_table(text)), wrong or "hl-smi lists no card that can be read"


def _table(text: str) -> Iterator[dict[str, str]]:
    """The rows below the line of column names; a unit behind a name is left out, the values have their own."""
    names: list[str] = []
    # One line at a time: a quotation mark that is never closed must not swallow the rows below it.
    lines = [line for line in text.replace("\0", "").splitlines() if len(line) < LINE_MOST]
    for cells in (cell for line in lines for cell in csv.reader([line])):
        if not names and "bus_id" in [cell.strip().lower() for cell in cells]:
            names = [cell.partition("[")[0].strip().lower() for cell in cells]
        elif names and len(cells) == len(names):
            yield dict(zip(names, (cell.strip() for cell in cells), strict=True))


def _by_address(rows: Any) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        address = pci_address(row.get("bus_id")) if isinstance(row, dict) else None
        if address is not None:
            found.setdefault(address, row)
    return found


def _hint(functions: Sequence[PciFunction]) -> str:
    install = families()["gaudi"].install
    return install if any(f.driver for f in functions) else f"modprobe habanalabs, or {install}"


def _found(slots: Mapping[str, _Slot], told: Mapping[str, Mapping[str, Any]]) -> Found:
    classes: dict[str, DeviceClass] = {}
    made = [
        _accelerator(slots[address], row, classes)
        for address, row in told.items()
        if address in slots
    ]
    missing = sorted(set(slots) - set(told))
    broken = Broken(
        reason=f"on PCI but not listed by the vendor's tool: {', '.join(missing)}",
        hint="see hl-smi and dmesg; in a container, pass its /dev/accel/accelN",
    )
    return offered(
        Found(
            accelerators=tuple(made),
            classes=tuple(classes.values()),
            links=_links(slots, made),
            broken=(broken,) if missing else (),
        )
    )


def _accelerator(
    slot: _Slot, row: Mapping[str, Any], classes: dict[str, DeviceClass]
) -> Accelerator:
    function = slot.function
    memory = size_bytes(row.get("memory.total"), _unit(row))
    name = text_of(row.get("name"))
    product = f"Gaudi {name}" if name else f"Gaudi (PCI {function.device})"
    known = class_of("gaudi", product, Kind.NPU, classes, memory_bytes=memory, pci=function.device)
    module = slot.module if slot.module is not None else _module(row)
    health, evidence = _health(slot.status)
    return Accelerator(
        family="gaudi",
        product=product,
        device_class=known.name,
        handle="" if module is None else str(module),
        serial=identifier(row.get("serial")),
        uuid=identifier(row.get("uuid")),
        pci=function.address,
        memory_bytes=memory,
        numa_node=function.numa_node,
        driver=text_of(row.get("driver_version")),
        power_limit_w=power_w(row.get("power.limit")),
        temperature_limit_c=temperature_c(row.get("temperature.limit")),
        health=health,
        evidence=evidence,
    )


def _module(row: Mapping[str, Any]) -> int | None:
    return whole(row.get("module_id"), most=255)


def _unit(row: Mapping[str, Any]) -> str:
    """The library counts bytes; the tool prints MiB, with or without saying so."""
    return "B" if isinstance(row.get("memory.total", row.get("memory.used")), int) else "MiB"


def _health(status: str | None) -> tuple[Health, tuple[str, ...]]:
    word = (status or "operational").lower()
    if word == "operational":
        return Health.HEALTHY, ()
    says = (f"the driver says {status}",)
    return (Health.LOST if "malfunction" in word else Health.DEGRADED), says


def _links(
    slots: Mapping[str, _Slot], made: Sequence[Accelerator]
) -> dict[tuple[str, str], Interconnect]:
    """A full baseboard is one fabric; fewer cards, or cards without modules, are joined as PCI says."""
    functions = [(one.identity, slots[one.pci].function) for one in made if one.pci]
    near = pci.links([(name, f) for name, f in functions if len(f.chain) > 1])
    if len(slots) != BOARD or len({slot.module for slot in slots.values()} - {None}) != BOARD:
        return near
    direct = Interconnect(kind=LinkKind.DIRECT)
    names = [one.identity for one in made]
    return {(a, b): direct for k, a in enumerate(names) for b in names[k + 1 :]}


def _reading(row: Mapping[str, Any], status: str | None) -> Reading:
    bits = whole(row.get("throttled"), most=2**16) or 0
    clock, top = whole(row.get("clock")), whole(row.get("clock.max"))
    pending = ("memory rows wait for a reset to be replaced",) if row.get("rows.pending") else ()
    return Reading(
        memory_used_bytes=used_bytes(row.get("memory.used"), _unit(row)),
        utilisation=ratio(row.get("utilization.aip")),
        temperature_c=temperature_c(row.get("temperature.aip")),
        power_w=power_w(row.get("power.draw")),
        clock_ratio=min(1.0, clock / top) if clock is not None and top else None,
        throttled=tuple(word for bit, word in _THROTTLE_BITS if bits & bit),
        faults=(*_health(status)[1], *pending),
    )
