"""Rebellions' NPUs: the driver says which there are, `rbln-smi` what they are, its daemon what they do.

Decides how these answers become accelerators. What each source prints is known to the modules that read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

from placement.devices import DeviceClass, Health, Kind
from placement.ids import NodeId
from placement.interconnect import Interconnect, LinkKind

from ..host import Host
from ..names import STAND_IN_ENV
from ..offers import offered
from ..pci import PciFunction, link, pci_functions
from ..probe import Absent, Accelerator, Broken, Found
from ..product import listed, unlisted
from ..quantities import document, text_of
from ..readers.rbln_daemon import PORT_ENV, place_of_daemon, readings_of_daemon, rows_of_daemon
from ..readers.rbln_smi import rows_of_tool
from ..readers.rbln_sysfs import CLASS, Card, addresses, cards, readings
from ..readers.rbln_told import Told, per_die, unique
from ..report import Reading
from ..vendors import families

FAMILY = "rebellions"
POLL_TIMEOUT_S = 1.5
LIBRARY_S = 1.5
SEVERAL_DIES = "RBLN_ATOM_MAX"
"""Class whose cards are several devices: each of them tells the power of the whole card."""

ATOM = "RBLN_ATOM"
ATOM_STOPS_C = 85.0
"""Where the driver resets a device of that family, from 1.3.73 on (release notes); from 75 C on it throttles it."""


class RebellionsProbe:
    """One accelerator per device of the driver: a card, or a die of an ATOM-Max.

    Its launch handle is its position among the `/dev/rbln<N>` that are there, in order of N: that is how
    `RBLN_VISIBLE_DEVICES` counts, in a container that was given some of them, too.
    """

    name: ClassVar[str] = FAMILY
    watches: ClassVar[tuple[str, ...]] = (CLASS,)

    def __init__(self) -> None:
        self._seen: dict[str, Told] = {}
        self._names: dict[str, str] = {}
        self._daemon: str | None = None
        self._tool = True

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`."""
        del node
        there = cards(host)
        if not there:
            return self._without_driver(host)
        usable = [card for card in there if card.position is not None and card.access == "ok"]
        if not usable:
            return _closed(there)
        told, broken = self._told(host, usable)
        joined = {c.name: _joined(c, self._about(c, told), told) for c in usable}
        self._names = {j.accelerator.pci: n for n, j in joined.items() if j.accelerator.pci}
        return _found([*joined.values()], [*broken, *_denied(there)])

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`. The daemon, else sysfs where it has a sensor, else the tool, else what sysfs has."""
        by_name = self._readings(host)
        names = self._names or addresses(host)
        mine = {
            one.identity: by_name[names[one.pci]]
            for one in found.accelerators
            if one.pci in names and names[one.pci] in by_name
        }
        return per_die(mine, _dies(found.accelerators))

    def _without_driver(self, host: Host) -> Found | Absent | Broken:
        # A stand-in daemon is all that there is of its cards; on other nodes the driver has the first word.
        if host.env(STAND_IN_ENV) and host.env(PORT_ENV):
            return self._stood_in(host)
        family = families()[FAMILY]
        if not any(family.claims(f.vendor, f.kind) for f in pci_functions(host, family.pci)):
            return Absent()
        return Broken(
            reason=f"there are Rebellions NPUs, but no {CLASS}: their driver is not loaded",
            hint=family.install,
        )

    def _stood_in(self, host: Host) -> Found | Broken:
        self._daemon = place_of_daemon(host)
        rows = rows_of_daemon(host, self._daemon) if self._daemon else None
        if not rows:
            return Broken(
                reason=f"no daemon answers at {PORT_ENV}", hint=f"start it, or unset {PORT_ENV}"
            )
        self._names = {row.pci: row.name for row in rows if row.pci}
        made = [
            _joined(Card(name=row.name, position=k, access="ok", pci=row.pci), row, {row.name: row})
            for k, row in enumerate(rows)
        ]
        return _found(made, [])

    def _told(self, host: Host, usable: Sequence[Card]) -> tuple[dict[str, Told], list[Broken]]:
        """What the tool says, else the daemon, and what is wrong with them."""
        self._daemon = place_of_daemon(host)
        rows = rows_of_tool(host)
        self._tool = isinstance(rows, tuple)
        if isinstance(rows, tuple):
            return unique(rows), []
        instead = rows_of_daemon(host, self._daemon) if self._daemon else None
        if instead is not None:
            return unique(instead), [rows] if rows else []
        return _of_library(host, usable), [rows or _no_tool()]

    def _about(self, card: Card, told: Mapping[str, Told]) -> Told:
        """What was told of a card, with the numbers that an earlier look learnt where this one did not."""
        row = told.get(card.name)
        if row is None or (card.pci and row.pci and card.pci != row.pci):
            row = Told(name=card.name)
        before = self._seen.get(card.pci or "")
        if before is not None:
            row = replace(row, uuid=row.uuid or before.uuid, board=row.board or before.board)
        if card.pci:
            self._seen[card.pci] = row
        return row

    def _readings(self, host: Host) -> Mapping[str, Reading]:
        """By kernel name. A source that fails is not asked again before the next look."""
        if self._daemon is not None:
            answer = readings_of_daemon(host, self._daemon)
            self._daemon = self._daemon if answer is not None else None
            return answer if answer is not None else readings(host)
        own = readings(host)
        if not self._tool or (own and all(r.temperature_c is not None for r in own.values())):
            return own
        rows = rows_of_tool(host, POLL_TIMEOUT_S)
        self._tool = isinstance(rows, tuple)
        if not isinstance(rows, tuple):
            return own
        return {row.name: _with_evidence(row) for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Joined:
    """An accelerator with where it sits."""

    accelerator: Accelerator
    function: PciFunction | None
    added: DeviceClass | None = None


def _joined(card: Card, told: Told, all_told: Mapping[str, Told]) -> _Joined:
    """The driver's word first, then what was told."""
    function = card.function
    device_id = function.device if function else told.device_id
    product = card.product or told.product or f"Rebellions {device_id or 'NPU'}"
    memory_bytes = told.memory_bytes or card.memory_bytes
    known = listed(FAMILY, product, memory_bytes=memory_bytes, pci=device_id)
    made = known or unlisted(
        vendor=FAMILY, kind=Kind.NPU, product=product, memory_bytes=memory_bytes
    )
    unknown = all_told and card.name not in all_told
    evidence = (
        *card.evidence,
        *told.evidence,
        *((f"the driver shows {card.name}, its tool or daemon does not",) if unknown else ()),
    )
    numa = function.numa_node if function else None
    accelerator = Accelerator(
        family=FAMILY,
        product=product,
        device_class=made.name,
        handle="" if card.position is None else str(card.position),
        serial=told.board,
        uuid=told.uuid,
        pci=card.pci or told.pci,
        board=told.board,
        memory_bytes=memory_bytes,
        numa_node=numa if numa is not None else told.numa_node,
        driver=card.driver or told.driver,
        firmware=told.firmware,
        temperature_limit_c=ATOM_STOPS_C if made.name.startswith(ATOM) else None,
        health=Health.DEGRADED if evidence else Health.HEALTHY,
        evidence=evidence,
        notes=_notes(card, told),
    )
    return _Joined(accelerator=accelerator, function=function, added=None if known else made)


def _notes(card: Card, told: Told) -> tuple[tuple[str, str], ...]:
    lanes = card.notes or ((("pcie", told.lanes),) if told.lanes else ())
    return (*lanes, *((("rsd group", told.group),) if told.group else ()))


def _found(joined: Sequence[_Joined], broken: Iterable[Broken]) -> Found:
    added = {j.added.name: j.added for j in joined if j.added}
    return offered(
        Found(
            accelerators=tuple(j.accelerator for j in joined),
            links=_links(joined),
            classes=tuple(added.values()),
            broken=tuple(broken),
        )
    )


def _links(joined: Sequence[_Joined]) -> dict[tuple[str, str], Interconnect]:
    """By board, else by the PCI tree, else by NUMA domain; an RSD group is made by software and changes with its user."""
    found: dict[tuple[str, str], Interconnect] = {}
    for one, other in combinations(joined, 2):
        a, b = one.accelerator, other.accelerator
        if a.board is not None and a.board == b.board:
            found[a.identity, b.identity] = Interconnect(kind=LinkKind.SAME)
        elif one.function and other.function and one.function.chain and other.function.chain:
            found[a.identity, b.identity] = link(one.function, other.function)
        elif a.numa_node is not None and b.numa_node is not None:
            kind = LinkKind.NUMA if a.numa_node == b.numa_node else LinkKind.SYSTEM
            found[a.identity, b.identity] = Interconnect(kind=kind)
    return found


def _dies(accelerators: Sequence[Accelerator]) -> dict[str, int]:
    """Identity -> dies of its card that are here; 0 where the card is not known but may have several."""
    boards = Counter(a.board for a in accelerators if a.board)
    return {
        a.identity: boards[a.board] if a.board else int(a.device_class != SEVERAL_DIES)
        for a in accelerators
    }


def _with_evidence(row: Told) -> Reading:
    return replace(row.reading, faults=(*row.evidence, *row.reading.faults))


def _closed(there: Sequence[Card]) -> Broken:
    """None of the devices can be used here."""
    named = ", ".join(card.name for card in there[:4])
    if all(card.position is None for card in there):
        return Broken(
            reason=f"the driver shows {named}, but none of them has a device file here",
            hint="give the container its devices: docker run --device /dev/rbln0",
        )
    return Broken(reason=f"{named}: permission denied", hint=_open_hint(there))


def _denied(there: Sequence[Card]) -> list[Broken]:
    """One sentence for the devices that are here but closed; those without a file here are another container's."""
    closed = [c for c in there if c.position is not None and c.access != "ok"]
    if not closed:
        return []
    named = ", ".join(card.name for card in closed)
    return [Broken(reason=f"{named}: permission denied", hint=_open_hint(closed))]


def _open_hint(closed: Sequence[Card]) -> str:
    name = next(card.name for card in closed if card.position is not None)
    return f"let the agent's user read and write /dev/{name} (ls -l names its group), then start it anew"


def _of_library(host: Host, usable: Sequence[Card]) -> dict[str, Told]:
    """Products alone, as the vendor's runtime names them: better than nothing in a container without the tool."""
    answer = host.ask("rebel", "devices", LIBRARY_S)
    said = document(answer.out) if answer is not None else None
    rows = said.get("devices") if isinstance(said, dict) else None
    if not isinstance(rows, list):
        return {}
    places = {card.position: card.name for card in usable}
    return {
        places[k]: Told(name=places[k], product=text_of(row.get("name")))
        for k, row in enumerate(rows)
        if k in places and isinstance(row, dict)
    }


def _no_tool() -> Broken:
    return Broken(
        reason="rbln-smi is not installed and no daemon answers: no serial numbers, no temperatures",
        hint=families()[FAMILY].install,
    )
