"""UPMEM's memory with processors in it: one device for each rank, which is what a program allocates.

Decides a rank's size from the driver's sysfs files. A rank in use cannot be allocated by another program, so the handle
names it alone. It must not know what its processors can compute (catalog). Samsung's HBM-PIM and SK hynix's AiM have no
public runtime, so nothing can be found of them: they are declared.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import ClassVar

from placement.devices import DeviceClass, Kind
from placement.ids import NodeId
from placement.interconnect import Interconnect, LinkKind

from ..host import Host
from ..machine import machine_id
from ..offers import offered
from ..probe import Absent, Accelerator, Broken, Found
from ..product import class_of
from ..quantities import identifier, size_bytes, text_of, whole
from ..vendors import families

RANKS = "/sys/class/dpu_rank"
PRODUCT = "UPMEM rank"


class UpmemProbe:
    """A DIMM has two ranks with one serial number; a rank is told by its place among them, or by its channel."""

    name: ClassVar[str] = "upmem"
    watches: ClassVar[tuple[str, ...]] = (RANKS,)

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`."""
        names = [n for n in host.list(RANKS) if re.fullmatch(r"dpu_rank[0-9]{1,4}", n)]
        names.sort(key=lambda name: int(name.removeprefix("dpu_rank")))
        if not names:
            return Absent()
        open_to_us = [n for n in names if host.access(f"/dev/{n}") == "ok"]
        closed = [n for n in names if n not in open_to_us]
        broken = tuple(_closed(host, closed))
        if not open_to_us:
            return broken[0]
        classes: dict[str, DeviceClass] = {}
        machine = hashlib.sha256((machine_id(host) or node).encode()).hexdigest()[:12]
        dimms = {name: _dimm(host, name) for name in open_to_us}
        repeated = {place for place, times in Counter(dimms.values()).items() if times > 1}
        made = tuple(
            _accelerator(host, machine, name, None if place in repeated else place, classes)
            for name, place in dimms.items()
        )
        return offered(
            Found(
                accelerators=made,
                classes=tuple(classes.values()),
                links=_links(made),
                broken=broken,
            )
        )


def _closed(host: Host, names: list[str]) -> Iterator[Broken]:
    if not names:
        return
    denied = any(host.access(f"/dev/{name}") == "denied" for name in names)
    hint = (
        "give the agent's user the group of /dev/dpu_rank*, as UPMEM's udev rules do"
        if denied
        else f"in a container, pass the device files; otherwise {families()['upmem'].install}"
    )
    yield Broken(
        reason=f"UPMEM ranks whose device file cannot be opened: {', '.join(names)}", hint=hint
    )


def _dimm(host: Host, name: str) -> tuple[str, str] | None:
    """The serial number of a rank's DIMM, and which rank of it; None when that does not tell it from others."""
    serial = identifier(host.read(f"{RANKS}/{name}/serial_number"))
    index = _number(host, f"{RANKS}/{name}/rank_index")
    return None if serial is None else (serial, name if index is None else f"rank:{index}")


def _accelerator(
    host: Host,
    machine: str,
    name: str,
    dimm: tuple[str, str] | None,
    classes: dict[str, DeviceClass],
) -> Accelerator:
    folder = f"{RANKS}/{name}"
    dpus, memory = _dpus(host, folder), _memory(host, folder)
    known = class_of("upmem", PRODUCT, Kind.PIM, classes, memory_bytes=memory)
    numa = _number(host, f"{folder}/numa_node")
    return Accelerator(
        family="upmem",
        product=PRODUCT,
        device_class=known.name,
        handle=f"backend=hw,rankPath=/dev/{name}",
        serial=dimm[0] if dimm else machine,
        part=dimm[1] if dimm else name,
        board=dimm[0] if dimm else None,
        memory_bytes=memory,
        numa_node=numa,
        firmware=text_of(host.read(f"{folder}/mcu_version")),
        driver=text_of(host.read("/sys/module/dpu/version")),
        notes=tuple(_notes(host, folder, dpus)),
    )


def _notes(host: Host, folder: str, dpus: int | None) -> Iterator[tuple[str, str]]:
    if dpus:
        yield ("processors", str(dpus))
    for key, file in (
        ("part number", "part_number"),
        ("channel", "channel_id"),
        ("clock, MHz", "fck_frequency"),
    ):
        value = text_of(host.read(f"{folder}/{file}"))
        if value:
            yield (key, value)


def _dpus(host: Host, folder: str) -> int | None:
    """Processors of a rank: control interfaces times processors of each."""
    interfaces, each = _number(host, f"{folder}/nb_ci"), _number(host, f"{folder}/nb_dpus_per_ci")
    return interfaces * each if interfaces and each else None


def _memory(host: Host, folder: str) -> int | None:
    dpus, each = _dpus(host, folder), size_bytes(host.read(f"{folder}/mram_size"))
    return size_bytes(dpus * each) if dpus and each else None


def _number(host: Host, file: str) -> int | None:
    return whole((host.read(file) or "").strip())


def _links(made: tuple[Accelerator, ...]) -> Mapping[tuple[str, str], Interconnect]:
    """Ranks reach each other through the processor only."""
    return {
        (a.identity, b.identity): Interconnect(kind=_kind(a, b)) for a, b in combinations(made, 2)
    }


def _kind(one: Accelerator, other: Accelerator) -> LinkKind:
    near = one.numa_node is not None and one.numa_node == other.numa_node
    return LinkKind.NUMA if near else LinkKind.SYSTEM
