"""Huawei's Ascend NPUs, as `npu-smi` tells.

Decides what is asked of the tool and what its words mean for work. It must not know how fast a chip is (catalog).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, count
from typing import ClassVar

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
from ..readers import npu_smi
from ..readers.npu_smi import Chip
from ..report import Reading
from ..vendors import families

TIMEOUT_S = 2.0
POLL_TIMEOUT_S = 1.5
DETAIL_TIMEOUT_S = 0.9
"""Of the two further questions; all three together stay below the prober's deadline."""

_CONTROL = "/dev/davinci_manager"

_HEALTH: Mapping[str, Health] = {
    "ok": Health.HEALTHY,
    "warning": Health.DEGRADED,
    "alarm": Health.DEGRADED,
}
"""Every other word (critical, unknown, offline) is as good as lost."""


class AscendProbe:
    """Reads three tables of `npu-smi`; a chip is known by its PCI address, as the tool tells no serial in them."""

    name: ClassVar[str] = "ascend"
    watches: ClassVar[tuple[str, ...]] = (pci.DEVICES,)

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`."""
        del node
        functions = _functions(host)
        if not functions and host.access(_CONTROL) == "absent":
            return Absent()
        text, wrong = said("npu-smi", host.run(["npu-smi", "info"], TIMEOUT_S))
        if wrong:
            return Broken(reason=_unread(functions, wrong), hint=_hint(host))
        seen = npu_smi.overview(text)
        if not seen.chips:
            return Broken(
                reason=_unread(functions, "npu-smi lists no chip that can be read"),
                hint=f"run npu-smi info on the node; {_hint(host)}",
            )
        return _found(host, seen, {f.address: f for f in functions})

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`. One run of the tool."""
        text, _ = said("npu-smi", host.run(["npu-smi", "info"], POLL_TIMEOUT_S))
        chips = {chip.pci: chip for chip in npu_smi.overview(text).chips if chip.pci}
        return {
            one.identity: _reading(chips[one.pci])
            for one in found.accelerators
            if one.pci is not None and one.pci in chips
        }


def _functions(host: Host) -> tuple[PciFunction, ...]:
    family = families()["ascend"]
    return tuple(f for f in pci.pci_functions(host, family.pci) if family.claims(f.vendor, f.kind))


def _unread(functions: Sequence[PciFunction], wrong: str) -> str:
    there = f"{len(functions)} Ascend chips on PCI, but " if functions else ""
    return f"{there}{wrong}"


def _hint(host: Host) -> str:
    family = families()["ascend"]
    if host.access(_CONTROL) == "denied":
        return f"usermod -aG {family.group} USER, then log in again"
    return family.install


def _found(host: Host, seen: npu_smi.Overview, functions: Mapping[str, PciFunction]) -> Found:
    mapping, _ = said("npu-smi", host.run(["npu-smi", "info", "-m"], DETAIL_TIMEOUT_S))
    logical = npu_smi.logical_ids(mapping)
    handles = _handles(seen.chips, logical)
    classes: dict[str, DeviceClass] = {}
    made: dict[tuple[int, int], Accelerator] = {}
    twice: list[Accelerator] = []
    for chip in seen.chips:
        key = chip.npu, chip.chip
        function = functions.get(chip.pci or "")
        one = _accelerator(chip, str(handles[key]), seen.version, function, classes)
        twice += [one] if key in made else []
        made.setdefault(key, one)
    unmapped = [f"{n}/{c}" for n, c in made if logical and (n, c) not in logical]
    return offered(
        Found(
            accelerators=(*made.values(), *twice),
            classes=tuple(classes.values()),
            links=_links(host, seen.chips, made, functions),
            broken=tuple(_gaps(seen, functions, bool(logical), unmapped)),
        )
    )


def _handles(
    chips: Sequence[Chip], logical: Mapping[tuple[int, int], int]
) -> dict[tuple[int, int], int]:
    """Logical ids; a chip whose id is not told gets the next that no other has, in the order of the list."""
    free = (number for number in count() if number not in logical.values())
    names = dict.fromkeys((chip.npu, chip.chip) for chip in chips)
    return {name: logical[name] if name in logical else next(free) for name in names}


def _accelerator(
    chip: Chip,
    handle: str,
    version: str | None,
    function: PciFunction | None,
    classes: dict[str, DeviceClass],
) -> Accelerator:
    name = chip.name or "NPU"
    product = name if name.lower().startswith("ascend") else f"Ascend {name}"
    known = class_of(
        "ascend",
        product,
        Kind.NPU,
        classes,
        memory_bytes=chip.memory_bytes,
        pci=function.device if function else None,
    )
    word = (chip.health or "").lower()
    health = _HEALTH.get(word, Health.LOST)
    return Accelerator(
        family="ascend",
        product=product,
        device_class=known.name,
        handle=handle,
        pci=chip.pci,
        memory_bytes=chip.memory_bytes,
        numa_node=function.numa_node if function else None,
        driver=version,
        health=health,
        evidence=() if health is Health.HEALTHY else (f"npu-smi says {chip.health}",),
        notes=(("npu", f"{chip.npu}, chip {chip.chip}"),),
    )


def _gaps(
    seen: npu_smi.Overview,
    functions: Mapping[str, PciFunction],
    mapped: bool,
    unmapped: Sequence[str],
) -> Iterator[Broken]:
    if seen.cut:
        cards = ", ".join(map(str, seen.cut))
        yield Broken(
            reason=f"npu-smi says only half of card {cards}", hint="run npu-smi info on the node"
        )
    if not mapped or unmapped:
        chips = ", ".join(unmapped) or "all chips"
        yield Broken(
            reason=f"npu-smi info -m tells no logical id of {chips}; taken in the order of the list",
            hint="run npu-smi info -m on the node; update the driver if it fails",
        )
    listed_there = {chip.pci for chip in seen.chips}
    if None in listed_there:
        yield Broken(
            reason="npu-smi tells no PCI address of a chip, so it cannot be told from others",
            hint="run the agent on the host, not in a virtual machine or container",
        )
    elif missing := sorted(set(functions) - listed_there):
        yield Broken(
            reason=f"on PCI but not listed by npu-smi: {', '.join(missing)}",
            hint="in a container, pass its /dev/davinciN; otherwise see npu-smi info and dmesg",
        )


def _links(
    host: Host,
    chips: Sequence[Chip],
    made: Mapping[tuple[int, int], Accelerator],
    functions: Mapping[str, PciFunction],
) -> dict[tuple[str, str], Interconnect]:
    """By the tool's own table; where it has none, by the PCI tree and by which dies share a card."""
    if len(chips) < 2:
        return {}
    answer, _ = said("npu-smi", host.run(["npu-smi", "info", "-t", "topo"], DETAIL_TIMEOUT_S))
    names = _labels(chips, made)
    told = {
        (names[a], names[b]): Interconnect(kind=kind)
        for (a, b), kind in npu_smi.topology(answer).items()
        if a in names and b in names
    }
    if told:
        return told
    places = [(m.identity, functions.get(m.pci or "")) for m in made.values()]
    return {
        **pci.links([(i, f) for i, f in places if f is not None and len(f.chain) > 1]),
        **_cards(made),
    }


def _cards(made: Mapping[tuple[int, int], Accelerator]) -> dict[tuple[str, str], Interconnect]:
    return {
        (one.identity, other.identity): Interconnect(kind=LinkKind.SAME)
        for ((card, _), one), ((other_card, _), other) in combinations(made.items(), 2)
        if card == other_card
    }


def _labels(chips: Sequence[Chip], made: Mapping[tuple[int, int], Accelerator]) -> dict[str, str]:
    """The topology table's labels -> identities. Cards of one chip are `NPU<card>`, others `Phy-ID<file>`."""
    single = len({chip.npu for chip in chips}) == len(chips)
    found: dict[str, str] = {}
    for chip in chips:
        identity = made[chip.npu, chip.chip].identity
        if not identity:
            continue
        if single:
            found[f"NPU{chip.npu}"] = identity
        if chip.physical is not None:
            found[f"Phy-ID{chip.physical}"] = identity
    return found


def _reading(chip: Chip) -> Reading:
    health = _HEALTH.get((chip.health or "").lower(), Health.LOST)
    return Reading(
        memory_used_bytes=chip.memory_used_bytes,
        utilisation=chip.utilisation,
        temperature_c=chip.temperature_c,
        power_w=chip.power_w,
        faults=() if health is Health.HEALTHY else (f"npu-smi says {chip.health}",),
    )
