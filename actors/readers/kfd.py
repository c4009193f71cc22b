"""AMD's compute topology (KFD) as sysfs tells it: the GPUs that a runtime may use, in its order, and their fabric.

Decides which topology node is which PCI card and which part of it. It must not know products, health, or sensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..host import Host
from ..pci import DEVICES
from ..quantities import attribute, size_bytes, text_of, whole

NODES = "/sys/class/kfd/kfd/topology/nodes"
XGMI = 11
"""Type of a link of AMD's own fabric; 2 is PCIe."""

MODES = {"SPX": 1, "DPX": 2, "TPX": 3, "QPX": 4}
"""Partitions of a card by its mode; CPX has one for each of its compute dies, and does not say how many these are."""
MOST_PARTS = 16

_MOST = 2**64 - 1
_MEGA = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link from one topology node to another. `bytes_per_s` of one direction; None = not told."""

    to: int
    kind: int
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one partition of it, that a runtime lists.

    Attributes:
        number: of its topology node.
        order: place among all GPUs of the topology: HIP's index, as its runtime keeps the topology's order.
        address: PCI address of the card.
        device: PCI device id, four hexadecimal digits.
        part: which partition of its card; None = the whole card.
        parts: in how many partitions the card is.
        uuid: sixteen hexadecimal digits, the same for all parts of a card.
        target: of the compiler, e.g. `gfx90a`.
        clock_mhz: highest clock.
    """

    number: int
    order: int
    address: str
    device: str
    part: int | None = None
    parts: int = 1
    uuid: str | None = None
    hive: str | None = None
    target: str | None = None
    compute_units: int | None = None
    memory_bytes: int | None = None
    clock_mhz: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    number: int
    values: Mapping[str, int]

    @property
    def location(self) -> int:
        return self.values["location_id"]

    @property
    def card(self) -> tuple[int, int]:
        """Domain, and bus and slot: a partition is told by the function's number, or by the four highest bits."""
        return self.values.get("domain", 0), self.location & 0xFFF8

    @property
    def part(self) -> int:
        return (self.location >> 28) or (self.location & 7)


def gpus(host: Host) -> tuple[Gpu, ...]:
    """The GPUs of the topology in its order; one that this process may not use cannot be read and is none."""
    numbers = sorted(int(n) for n in host.list(NODES) if n.isascii() and n.isdigit() and len(n) < 5)
    nodes = [node for n in numbers if (node := _node(host, n)) is not None]
    cards = [node.card for node in nodes]
    return tuple(
        _gpu(host, node, order, cards.count(node.card)) for order, node in enumerate(nodes)
    )


def links(host: Host, number: int) -> tuple[Link, ...]:
    """The links that begin at a node."""
    folder = f"{NODES}/{number}/io_links"
    told = (_properties(host.read(f"{folder}/{name}/properties")) for name in host.list(folder))
    return tuple(
        Link(
            to=values["node_to"],
            kind=values["type"],
            bytes_per_s=values.get("max_bandwidth", 0) * _MEGA or None,
        )
        for values in told
        if "node_to" in values and "type" in values
    )


def target(version: int | None) -> str | None:
    """The compiler's name of a target: decimal major, minor and stepping, two digits each but written hexadecimal.

    >>> target(90010), target(90402), target(110001), target(0)
    ('gfx90a', 'gfx942', 'gfx1101', None)
    """
    if not version:
        return None
    major, minor, step = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{step:x}"


def _node(host: Host, number: int) -> _Node | None:
    values = _properties(host.read(f"{NODES}/{number}/properties"))
    if not values.get("simd_count") or not values.get("location_id"):
        return None
    return _Node(number=number, values=values)


def _gpu(host: Host, node: _Node, order: int, seen: int) -> Gpu:
    values = node.values
    memory = _memory(host, node.number)
    parts = _parts(host, node, seen, memory)
    simds, per_unit = values.get("simd_count", 0), values.get("simd_per_cu", 0)
    return Gpu(
        number=node.number,
        order=order,
        # A whole card keeps its function's number, which in a virtual machine need not be 0.
        address=_address(node, node.location & 7 if parts == 1 else 0),
        device=f"{values.get('device_id', 0) & 0xFFFF:04x}",
        part=node.part if parts > 1 else None,
        parts=parts,
        uuid=f"{values['unique_id']:016x}" if values.get("unique_id") else None,
        hive=f"{values['hive_id']:016x}" if values.get("hive_id") else None,
        target=target(values.get("gfx_target_version")),
        compute_units=simds // per_unit if per_unit else None,
        memory_bytes=memory,
        clock_mhz=values.get("max_engine_clk_fcompute") or None,
    )


def _parts(host: Host, node: _Node, seen: int, memory_bytes: int | None) -> int:
    """In how many partitions a card is, also when a container sees only some of them: by its mode and its memory."""
    folder = f"{DEVICES}/{_address(node, 0)}"
    mode = (host.read(f"{folder}/current_compute_partition") or "").strip()
    if mode == "CPX":
        card = size_bytes(host.read(f"{folder}/mem_info_vram_total"))
        share = round(card / memory_bytes) if card and memory_bytes else 1
        return max(seen, min(share, MOST_PARTS))
    return max(seen, MODES.get(mode, 1))


def _address(node: _Node, function: int) -> str:
    domain, place = node.card
    return f"{domain & 0xFFFF:04x}:{place >> 8:02x}:{place >> 3 & 0x1F:02x}.{function}"


def _memory(host: Host, number: int) -> int | None:
    """The node's own memory: its banks of heap types 1 and 2 (frame buffer); a partition tells its part."""
    folder = f"{NODES}/{number}/mem_banks"
    banks = [_properties(host.read(f"{folder}/{b}/properties")) for b in host.list(folder)]
    return size_bytes(sum(b.get("size_in_bytes", 0) for b in banks if b.get("heap_type") in (1, 2)))


def _properties(text: str | None) -> dict[str, int]:
    """Lines of a name and a whole number; others are left out."""
    found: dict[str, int] = {}
    for line in attribute(text).splitlines():
        name, _, value = line.partition(" ")
        number = whole(value.strip(), most=_MOST)
        if number is not None and text_of(name):
            found[name] = number
    return found
