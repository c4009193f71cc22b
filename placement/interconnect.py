"""How two accelerators of one node are joined, in one vocabulary for all vendors, and the islands that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class LinkKind(StrEnum):
    """Ways from device to device, closest first."""

    SAME = "same"
    """Parts of one card: dies, PEs, MIG slices."""
    DIRECT = "direct"
    """A fabric of their own: NVLink, XGMI, HCCS."""
    SWITCH = "switch"
    """PCIe switches only; the host bridge is not crossed."""
    HOST_BRIDGE = "host-bridge"
    NUMA = "numa"
    """Several host bridges of one NUMA domain."""
    SYSTEM = "system"
    """Between sockets."""


ORDER: Mapping[LinkKind, int] = {kind: place for place, kind in enumerate(LinkKind)}
"""Place of a kind from closest (0) to farthest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interconnect:
    """How the devices of a pair are joined.

    Attributes:
        lanes: parallel direct links, e.g. 18 for an H100 pair; 0 = not direct, or unknown.
        bytes_per_s: of all lanes together in one direction; None = nobody said.
    """

    kind: LinkKind
    lanes: int = 0
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bond:
    """A set of devices of which every pair is joined in the same way. `members` are sorted."""

    members: tuple[str, ...]
    link: Interconnect


def bonds(pairs: Mapping[tuple[str, str], Interconnect]) -> tuple[Bond, ...]:
    """The pairs of a node in few words: greedy cliques of equal links, closest kinds first.

    >>> nv = Interconnect(kind=LinkKind.DIRECT, lanes=4)
    >>> [b.members for b in bonds({("a", "b"): nv, ("c", "b"): nv, ("a", "c"): nv})]
    [('a', 'b', 'c')]
    """
    left: dict[Interconnect, set[frozenset[str]]] = {}
    for (one, other), link in pairs.items():
        if one != other:
            left.setdefault(link, set()).add(frozenset((one, other)))
    kinds = sorted(left, key=lambda link: (ORDER[link.kind], -link.lanes, link.bytes_per_s or 0.0))
    return tuple(
        Bond(members=members, link=link) for link in kinds for members in _cliques(left[link])
    )


def _cliques(edges: set[frozenset[str]]) -> Iterator[tuple[str, ...]]:
    while edges:
        members = sorted(min(edges, key=sorted))
        for name in sorted({end for edge in edges for end in edge}.difference(members)):
            if all(frozenset((name, member)) in edges for member in members):
                members.append(name)
        yield tuple(sorted(members))
        edges.difference_update(
            frozenset((a, b)) for k, a in enumerate(members) for b in members[k + 1 :]
        )


def link_between(one: str, other: str, known: Sequence[Bond]) -> Interconnect | None:
    """How two devices are joined; None when nobody said."""
    return next((b.link for b in known if one in b.members and other in b.members), None)


def islands(groups: Iterable[Sequence[str]], known: Sequence[Bond]) -> dict[str, int]:
    """The island of each device, numbered from 0 in order of first appearance.

    Args:
        groups: ids of equal devices (one class); an island never spans two groups.
        known: how they are joined.

    In a group where any pair has a direct link, only such links (and being parts of one card) make islands: a card that
    was left out of the fabric stands alone. Without a fabric, devices of one NUMA domain are an island. Devices that
    nobody says anything of are one island, as in a file that declares them.
    """
    found: dict[str, int] = {}
    for group in groups:
        for members in _components(list(dict.fromkeys(group)), known):
            number = len(set(found.values()))
            found.update(dict.fromkeys(members, number))
    return found


def _components(group: list[str], known: Sequence[Bond]) -> Iterator[list[str]]:
    inside = [
        (b.link.kind, joined)
        for b in known
        if len(joined := [name for name in group if name in b.members]) > 1
    ]
    if not inside:
        yield from [group] if group else []
        return
    fabric = any(kind is LinkKind.DIRECT for kind, _ in inside)
    floor = ORDER[LinkKind.DIRECT if fabric else LinkKind.NUMA]
    near = [joined for kind, joined in inside if ORDER[kind] <= floor]
    left = list(group)
    while left:
        island = _grown({left[0]}, near)
        yield [name for name in left if name in island]
        left = [name for name in left if name not in island]


def _grown(island: set[str], near: Sequence[Sequence[str]]) -> set[str]:
    """Everything that is reached from the island; each turn adds a device, so it ends."""
    while more := {n for joined in near if island & set(joined) for n in joined} - island:
        island = island | more
    return island
