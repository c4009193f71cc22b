"""AMD's GPUs, as the kernel's topology (KFD) and the cards' folders in sysfs tell. No tool is run.

Decides which GPUs are offered: those that a ROCm runtime would list, by its index, and which have memory of their own. It
must not know how fast a card is (catalog).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import ClassVar

from placement.devices import DeviceClass, Health, Kind
from placement.ids import NodeId
from placement.interconnect import Interconnect, LinkKind
from placement.units import GIB

from .. import pci
from ..host import Host
from ..offers import offered
from ..pci import PciFunction
from ..probe import Absent, Accelerator, Broken, Found
from ..product import listed, product_name, unlisted
from ..quantities import (
    identifier,
    power_w,
    ratio,
    size_bytes,
    text_of,
    used_bytes,
)
from ..readers import amd_ras, hwmon, kfd
from ..readers.kfd import Gpu
from ..report import Reading
from ..vendors import families

CONTROL = "/dev/kfd"
SENSORS = ("junction", "edge", "PPT")
"""Labels of the sensors that speak for a card, best first."""

LEAST_BYTES = 3 * GIB
"""An integrated GPU has a smaller piece of the RAM than this, unless its owner gave it more to work with."""

_DISCRETE = range(0x6600, 0x8000)
"""Device ids of cards since 2016; those of integrated GPUs lie outside."""


@dataclass(slots=True)
class AmdProbe:
    """Reads KFD's topology. An index that HIP counts is today's handle, so GPUs that are not offered count, too."""

    name: ClassVar[str] = "amd"
    watches: ClassVar[tuple[str, ...]] = (kfd.NODES, pci.DEVICES)

    _monitors: dict[str, hwmon.Monitor] = field(default_factory=dict)

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`."""
        del node
        family = families()["amd"]
        functions = {f.address: f for f in pci.pci_functions(host, family.pci, family.pci_classes)}
        gpus = kfd.gpus(host)
        unread = _unread(functions, gpus)
        if not gpus:
            return unread or Absent()
        cards = [_card(host, gpu, functions.get(gpu.address)) for gpu in gpus]
        usable = [card for card in cards if card.offered]
        if usable and (access := host.access(CONTROL)) != "ok":
            return Broken(
                reason=f"{len(usable)} AMD GPUs, but {CONTROL} is {access}", hint=_hint(access)
            )
        if not usable:
            return unread or Absent()
        self._monitors = {c.gpu.address: hwmon.monitor(host, c.folder, SENSORS) for c in usable}
        return self._found(host, usable, unread)

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`. Parts of a card share its sensors; its power is told in equal parts."""
        parts: dict[str, list[Accelerator]] = {}
        for one in found.accelerators:
            parts.setdefault(one.pci or "", []).append(one)
        readings: dict[str, Reading] = {}
        for address, members in parts.items():
            folder = f"{pci.DEVICES}/{address}"
            monitor = self._monitors.get(address, hwmon.Monitor())
            reading = _reading(host, folder, monitor, len(members))
            readings |= {one.identity: reading for one in members}
        return readings

    def _found(self, host: Host, cards: Sequence[_Card], unread: Broken | None) -> Found:
        classes: dict[str, DeviceClass] = {}
        made = [_accelerator(host, c, self._monitors[c.gpu.address], classes) for c in cards]
        return offered(
            Found(
                accelerators=tuple(made),
                classes=tuple(classes.values()),
                links=_links(host, list(zip(made, cards, strict=True))),
                broken=(unread,) if unread else (),
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    """A GPU of the topology with what its PCI folder says. `memory_bytes` is of the part, `known` of the whole card."""

    gpu: Gpu
    product: str
    known: DeviceClass | None
    memory_bytes: int | None
    function: PciFunction | None = None

    @property
    def folder(self) -> str:
        return f"{pci.DEVICES}/{self.gpu.address}"

    @property
    def offered(self) -> bool:
        return (
            self.known is not None or self.memory_bytes is None or self.memory_bytes >= LEAST_BYTES
        )


def _card(host: Host, gpu: Gpu, function: PciFunction | None) -> _Card:
    folder = f"{pci.DEVICES}/{gpu.address}"
    whole_card = size_bytes(host.read(f"{folder}/mem_info_vram_total"))
    if whole_card is None and gpu.memory_bytes is not None:
        whole_card = gpu.memory_bytes * gpu.parts
    told = text_of(host.read(f"{folder}/product_name"))
    product = told or product_name("amd", gpu.device, whole_card) or _nameless(gpu)
    return _Card(
        gpu=gpu,
        product=product,
        known=listed("amd", product, memory_bytes=whole_card, pci=gpu.device),
        memory_bytes=gpu.memory_bytes or (whole_card // gpu.parts if whole_card else None),
        function=function,
    )


def _nameless(gpu: Gpu) -> str:
    return f"AMD GPU {gpu.device}" + (f" {gpu.target}" if gpu.target else "")


def _accelerator(
    host: Host, card: _Card, monitor: hwmon.Monitor, classes: dict[str, DeviceClass]
) -> Accelerator:
    gpu, folder = card.gpu, card.folder
    serial = identifier(host.read(f"{folder}/serial_number"))
    faults = amd_ras.faults(host, folder)
    limit = monitor.power_limit_w(host)
    return Accelerator(
        family="amd",
        product=card.product,
        device_class=_class(card, limit, classes).name,
        handle=str(gpu.order),
        serial=serial,
        uuid=gpu.uuid,
        pci=gpu.address,
        part="" if gpu.part is None else f"xcp:{gpu.part}",
        board=serial or (gpu.address if gpu.parts > 1 else None),
        memory_bytes=card.memory_bytes,
        numa_node=card.function.numa_node if card.function else None,
        driver=text_of(host.read(families()["amd"].version_file)),
        firmware=text_of(host.read(f"{folder}/vbios_version")),
        power_limit_w=None if limit is None else power_w(limit / gpu.parts),
        temperature_limit_c=monitor.limit_c(host),
        health=Health.DEGRADED if faults else Health.HEALTHY,
        evidence=faults,
        notes=tuple(_notes(host, card)),
    )


def _class(card: _Card, limit_w: float | None, classes: dict[str, DeviceClass]) -> DeviceClass:
    parts = card.gpu.parts
    known = card.known
    if known is None:
        known = unlisted(
            vendor="amd",
            kind=Kind.GPU,
            product=card.product,
            memory_bytes=card.memory_bytes,
            power_w=None if limit_w is None else limit_w / parts,
        )
    elif parts > 1:
        known = _part_of(known, parts)
    else:
        return known
    classes[known.name] = known
    return known


def _part_of(card: DeviceClass, parts: int) -> DeviceClass:
    """A class for one partition: an equal share of everything, which is how the driver divides a card."""
    return replace(
        card,
        name=f"{card.name}_1_OF_{parts}",
        memory_bytes=card.memory_bytes // parts,
        bandwidth_bytes_per_s=card.bandwidth_bytes_per_s / parts,
        flops=tuple((dtype, rate / parts) for dtype, rate in card.flops),
        power_w=card.power_w / parts,
        idle_w=card.idle_w / parts,
        price_per_hour=card.price_per_hour / parts,
        source=f"one of {parts} equal parts of {card.name}: {card.source}",
    )


def _notes(host: Host, card: _Card) -> Iterator[tuple[str, str]]:
    if card.gpu.target:
        yield ("target", card.gpu.target)
    if card.gpu.compute_units:
        yield ("compute units", str(card.gpu.compute_units))
    for key, name in (("compute partition", "compute"), ("memory partition", "memory")):
        mode = text_of(host.read(f"{card.folder}/current_{name}_partition"))
        if mode:
            yield (key, mode)
    yield from pci.lanes_note(host, card.folder)


def _links(
    host: Host, members: Sequence[tuple[Accelerator, _Card]]
) -> dict[tuple[str, str], Interconnect]:
    """Parts of a card or board, then AMD's fabric as the topology tells it, then the PCI tree."""
    fabric = _fabric(host, [card.gpu for _, card in members])
    found: dict[tuple[str, str], Interconnect] = {}
    for (one, a), (other, b) in combinations(members, 2):
        ends = frozenset((a.gpu.address, b.gpu.address))
        link = fabric.get(ends)
        if len(ends) == 1 or (one.board is not None and one.board == other.board):
            found[one.identity, other.identity] = Interconnect(kind=LinkKind.SAME)
        elif link is not None:
            found[one.identity, other.identity] = link
        elif a.function is not None and b.function is not None:
            found[one.identity, other.identity] = pci.link(a.function, b.function)
    return found


def _fabric(host: Host, gpus: Sequence[Gpu]) -> dict[frozenset[str], Interconnect]:
    """Direct links by pairs of cards. One part speaks for its card: 64 parts have four thousand links to read."""
    cards = {gpu.number: gpu.address for gpu in gpus}
    speakers = {gpu.address: gpu.number for gpu in reversed(gpus)}
    return {
        frozenset((address, cards[link.to])): Interconnect(
            kind=LinkKind.DIRECT, bytes_per_s=link.bytes_per_s
        )
        for address, number in speakers.items()
        for link in kfd.links(host, number)
        if link.kind == kfd.XGMI and cards.get(link.to, address) != address
    }


def _reading(host: Host, folder: str, monitor: hwmon.Monitor, parts: int) -> Reading:
    power = monitor.power_w(host)
    alone = parts == 1
    return Reading(
        memory_used_bytes=used_bytes(host.read(f"{folder}/mem_info_vram_used")) if alone else None,
        utilisation=ratio(host.read(f"{folder}/gpu_busy_percent")) if alone else None,
        temperature_c=monitor.temperature_c(host),
        power_w=None if power is None else power_w(power / parts),
        faults=amd_ras.faults(host, folder),
    )


def _unread(functions: Mapping[str, PciFunction], gpus: Sequence[Gpu]) -> Broken | None:
    """Cards on PCI that the topology does not have."""
    listed_there = {gpu.address for gpu in gpus}
    left = [
        f
        for f in functions.values()
        if f.address not in listed_there and not f.virtual and _discrete(f.device)
    ]
    if not left:
        return None
    names = ", ".join(f"{f.address} ({f.driver or 'no driver'})" for f in left)
    if all(f.driver == "amdgpu" for f in left):
        hint = "in a container, pass --device /dev/kfd --device /dev/dri; otherwise see dmesg for amdgpu and kfd"
    else:
        hint = families()["amd"].install
    return Broken(
        reason=f"AMD GPUs on PCI that the compute driver does not list: {names}", hint=hint
    )


def _discrete(device: str) -> bool:
    return product_name("amd", device) is not None or int(device, 16) in _DISCRETE


def _hint(access: str) -> str:
    family = families()["amd"]
    if access == "denied":
        return f"usermod -aG {family.group} USER, then log in again"
    return f"in a container, pass --device {CONTROL} --device /dev/dri; otherwise {family.install}"
