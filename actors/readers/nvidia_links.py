"""How NVIDIA's cards of one node are joined: NVLink first, else the PCI tree.

Decides lanes and bandwidth of a pair. It must not know how the cards were asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from placement.interconnect import Interconnect, LinkKind

from ..pci import PciFunction, link
from ..quantities import pci_address, text_of, whole

LANE_BYTES_PER_S: Mapping[int, float] = {1: 20e9, 2: 25e9, 3: 25e9, 4: 25e9, 6: 25e9, 7: 50e9}
"""One NVLink in one direction by NVML's number of the generation (1.0, 2.0, 2.2, 3.0, 4.0, 5.0). Source: the published
40, 50, 50, 50 and 100 GB/s per link in both directions together. 3.1 and 6.0 are left out: nobody was read on them."""

_SWITCH = 2
_NEAR: Mapping[int, LinkKind] = {
    0: LinkKind.SAME,
    10: LinkKind.SWITCH,
    20: LinkKind.SWITCH,
    30: LinkKind.HOST_BRIDGE,
    40: LinkKind.NUMA,
    50: LinkKind.SYSTEM,
}
"""NVML's levels of the closest common ancestor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A device that can be given out: a card, or an instance of one.

    Attributes:
        identity: see `actors.probe.Accelerator`.
        card: the document of the card that it is, or is part of.
        function: what sysfs knows of that card.
        part: it is an instance.
    """

    identity: str
    card: Mapping[str, Any]
    function: PciFunction | None = None
    part: bool = False


def joined(members: Sequence[Member], near: object) -> dict[tuple[str, str], Interconnect]:
    """Every pair of which anything is known.

    Args:
        near: rows `[uuid, uuid, level]` of NVML's topology, for cards that are not in sysfs.
    """
    levels = dict(_levels(near))
    pairs = (
        ((one.identity, other.identity), _pair(one, other, levels))
        for one, other in combinations(members, 2)
    )
    return {pair: found for pair, found in pairs if found is not None}


def _pair(
    one: Member, other: Member, levels: Mapping[frozenset[str], LinkKind]
) -> Interconnect | None:
    if one.card is other.card:
        return Interconnect(kind=LinkKind.SAME)
    direct = None if one.part or other.part else _nvlink(one.card, other.card)
    if direct is not None:
        return direct
    if one.function is not None and other.function is not None:
        return link(one.function, other.function)
    uuids = [text_of(m.card.get("uuid")) for m in (one, other)]
    kind = levels.get(frozenset(uuid for uuid in uuids if uuid))
    return None if kind is None else Interconnect(kind=kind)


def _nvlink(one: Mapping[str, Any], other: Mapping[str, Any]) -> Interconnect | None:
    """Links straight to each other, or of both to the switches, through which every card reaches every other."""
    lanes = min(_lanes_to(one, other), _lanes_to(other, one))
    if not lanes:
        lanes = min(_lanes_to_switches(one), _lanes_to_switches(other))
    if not lanes:
        return None
    speeds = [speed for speed in (_lane_speed(one), _lane_speed(other)) if speed]
    return Interconnect(
        kind=LinkKind.DIRECT,
        lanes=lanes,
        bytes_per_s=lanes * min(speeds) if len(speeds) == 2 else None,
    )


def _lanes_to(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    address = pci_address(other.get("pci"))
    return sum(
        links
        for far, kind, links in _ends(one)
        if address is not None and far == address and kind != _SWITCH
    )


def _lanes_to_switches(card: Mapping[str, Any]) -> int:
    return sum(links for _, kind, links in _ends(card) if kind == _SWITCH)


def _ends(card: Mapping[str, Any]) -> Iterator[tuple[str | None, int | None, int]]:
    rows = card.get("nvlinks")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            yield pci_address(row.get("pci")), whole(row.get("kind")), whole(row.get("links")) or 0


def _lane_speed(card: Mapping[str, Any]) -> float | None:
    """What the driver says of its links, else what is published of their generation."""
    told = whole(card.get("nvlink_mbyte_per_s"), most=10**6)
    if told:
        return told * 1e6
    rows = card.get("nvlinks")
    versions = {
        whole(row.get("version"))
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
    }
    speeds = {LANE_BYTES_PER_S.get(v) if v is not None else None for v in versions}
    return min((s for s in speeds if s), default=None) if None not in speeds else None


def _levels(near: object) -> Iterator[tuple[frozenset[str], LinkKind]]:
    for row in near if isinstance(near, list) else ():
        if not isinstance(row, list) or len(row) != 3:
            continue
        uuids = frozenset(uuid for uuid in map(text_of, row[:2]) if uuid)
        level = whole(row[2])
        if len(uuids) == 2 and level in _NEAR:
            yield uuids, _NEAR[level]
