"""FuriosaAI's RNGD cards, from their driver's sysfs folders.

Decides what a card is offered as: whole, or as devices of some of its PEs where `SHARDYARD_FURIOSA_PES` says so. It must
not know how the driver writes its files (`actors.rngd`), nor what a class can do (catalog).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from placement.devices import DeviceClass, Health, Kind
from placement.ids import NodeId

from .. import pci
from ..host import Host
from ..offers import offered
from ..pci import PciFunction, pci_function, pci_functions
from ..probe import Absent, Accelerator, Broken, Found
from ..product import listed, unlisted
from ..quantities import whole
from ..readers.rngd import (
    CLASS,
    NODES,
    PE_BYTES,
    Card,
    Live,
    Sensors,
    card,
    cards_as_told,
    indices,
    live,
    sensors,
    watts,
)
from ..readers.rngd_parts import (
    PES_ENV,
    Part,
    part_named,
    parts,
    scaled,
    used_bytes,
    utilisation,
    wanted_size,
)
from ..report import Reading
from ..vendors import Family, families

ALIVE = "0"

_NAMES = {"0001": "RNGD", "0002": "RNGD+"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A card with its place on the bus; `function` is None when sysfs does not show it."""

    card: Card
    function: PciFunction | None

    @property
    def device_id(self) -> str:
        """Of PCI; where the bus is hidden, what the driver calls the card."""
        if self.function is not None:
            return self.function.device
        kind = (self.card.kind or "").upper()
        return next((number for number, name in _NAMES.items() if name == kind), "")

    @property
    def product(self) -> str:
        return _NAMES.get(self.device_id) or f"RNGD {self.device_id or 'of unknown kind'}"

    @property
    def pe_bytes(self) -> int | None:
        return PE_BYTES.get(self.device_id)


class FuriosaProbe:
    """Reads `/sys/class/rngd_mgmt` and the cards' PCI functions; asks the vendor's library or tool only where those fail."""

    name: ClassVar[str] = "furiosa"
    watches: ClassVar[tuple[str, ...]] = (CLASS, NODES)

    def __init__(self) -> None:
        self._seen: dict[str, tuple[_Seen, Sensors]] = {}
        self._cycles: dict[str, dict[int, tuple[int, int]]] = {}

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`."""
        del node
        family = families()[self.name]
        functions = [f for f in pci_functions(host, family.pci) if family.claims(f.vendor, f.kind)]
        shown = indices(host)
        if not shown and not functions:
            return Absent()
        seen, broken = _cards(host, shown, family)
        broken += _undriven(functions, seen, family)
        self._seen = {s.card.address: (s, sensors(host, s.card.address)) for s in seen}
        if not seen:
            return broken[0] if len(broken) == 1 else Found(broken=tuple(broken))
        return self._found(host, seen, broken, family)

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`. A card whose index is another one now is left out until the next look."""
        by_card: dict[str, list[Accelerator]] = {}
        for device in found.accelerators:
            by_card.setdefault(device.pci or "", []).append(device)
        readings: dict[str, Reading] = {}
        for address, devices in by_card.items():
            entry = self._seen.get(address) or _again(host, devices[0])
            if entry is None or not _still(host, entry[0].card):
                continue
            self._seen[address] = entry
            now = live(host, entry[0].card, entry[1], entry[0].pe_bytes)
            before = self._cycles.get(address, {})
            for device in devices:
                readings[device.identity] = _reading(part_named(device.part), now, before)
            self._cycles[address] = dict(now.cycles)
        return readings

    def _found(
        self, host: Host, seen: Sequence[_Seen], broken: list[Broken], family: Family
    ) -> Found:
        size, complaint = wanted_size(host.env(PES_ENV))
        nodes = host.list(NODES)
        accelerators: list[Accelerator] = []
        members: list[tuple[str, PciFunction]] = []
        classes: dict[str, DeviceClass] = {}
        for one in seen:
            evidence, refused = _openable(host, one.card.index, nodes, family)
            broken += refused
            device_class = _class(one)
            for part in parts(size):
                known = scaled(device_class, part)
                if known is not listed(family.name, "", pci=one.device_id):
                    classes[known.name] = known
                made = self._accelerator(host, one, part, known, evidence)
                accelerators.append(made)
                if one.function is not None:
                    members.append((made.identity, one.function))
        return offered(
            Found(
                accelerators=tuple(accelerators),
                links=pci.links(members),
                classes=tuple(classes.values()),
                broken=(*broken, *complaint),
            )
        )

    def _accelerator(
        self, host: Host, seen: _Seen, part: Part, known: DeviceClass, evidence: tuple[str, ...]
    ) -> Accelerator:
        card, function = seen.card, seen.function
        health, dead = _health(card.state)
        limit_w = watts(host, self._seen[card.address][1].limit)
        return Accelerator(
            family=self.name,
            product=seen.product,
            device_class=known.name,
            handle=f"npu:{card.index}" if part.is_whole else f"npu:{card.index}:{part.pes}",
            serial=card.serial,
            uuid=card.uuid,
            pci=card.address,
            part=part.name,
            board=card.serial or card.uuid or card.address,
            memory_bytes=seen.pe_bytes * part.size if seen.pe_bytes else None,
            numa_node=function.numa_node if function is not None else None,
            driver=card.driver,
            firmware=card.firmware,
            power_limit_w=limit_w if part.is_whole else None,
            health=Health.DEGRADED if evidence and health is Health.HEALTHY else health,
            evidence=(*dead, *evidence),
            notes=_notes(host, card, function),
        )


def _cards(host: Host, shown: Sequence[int], family: Family) -> tuple[list[_Seen], list[Broken]]:
    """The cards that the driver shows, each once."""
    told = {index: card(host, index) for index in shown}
    asked = cards_as_told(host) if None in told.values() else {}
    seen: dict[str, _Seen] = {}
    broken: list[Broken] = []
    for index, one in ((k, c or asked.get(k)) for k, c in told.items()):
        if one is None:
            reason = f"npu{index} is shown in {CLASS}, but its address cannot be read there"
            hint = f"let the agent's user read {CLASS}; the vendor's own word: furiosa-smi info"
            broken.append(Broken(reason=reason, hint=hint))
        elif one.address in seen:
            reason = f"npu{index} and npu{seen[one.address].card.index} are both at {one.address}"
            broken.append(Broken(reason=reason, hint=_reload(family)))
        else:
            seen[one.address] = _Seen(card=one, function=pci_function(host, one.address))
    return list(seen.values()), broken


def _undriven(
    functions: Sequence[PciFunction], seen: Sequence[_Seen], family: Family
) -> list[Broken]:
    """Cards that the bus has and the driver does not show; virtual functions belong to somebody else's machine."""
    shown = {one.card.address for one in seen}
    missing = [f for f in functions if f.address not in shown and not f.virtual]
    if not missing:
        return []
    where = ", ".join(f"{f.address} ({f.vendor}:{f.device})" for f in missing)
    driven = sorted({f.driver for f in missing} - {""})
    held = f"; held by the driver {', '.join(driven)}" if driven else ""
    hint = _reload(family) if family.modules[0] in driven else family.install
    return [Broken(reason=f"on PCI, but not shown in {CLASS}: {where}{held}", hint=hint)]


def _reload(family: Family) -> str:
    module = family.modules[0]
    return f"see what dmesg says, then reload the driver: modprobe -r {module} && modprobe {module}"


def _again(host: Host, device: Accelerator) -> tuple[_Seen, Sensors] | None:
    """A card of an answer that another instance of the probe gave."""
    index = whole(device.handle.split(":")[1] if ":" in device.handle else None, most=9999)
    if index is None or device.pci is None:
        return None
    one = Card(index=index, address=device.pci)
    return _Seen(card=one, function=pci_function(host, device.pci)), sensors(host, device.pci)


def _still(host: Host, card: Card) -> bool:
    return (host.read(f"{card.folder}/busname") or "").strip().lower() == card.address


def _openable(
    host: Host, index: int, nodes: Sequence[str], family: Family
) -> tuple[tuple[str, ...], list[Broken]]:
    """Why no engine could open the card, and what mends it."""
    own = next((name for name in nodes if name.startswith(f"npu{index}pe")), None)
    if own is None:
        reason = f"npu{index} has no device file {NODES}/npu{index}pe*"
        hint = f"in a container, pass it in: --device {NODES}; on the machine: udevadm trigger"
    elif host.access(f"{NODES}/{own}") == "denied":
        reason = f"{NODES}/{own} may not be opened"
        hint = f"usermod -aG {family.group} USER, then log in again"
    else:
        return (), []
    return (reason,), [Broken(reason=reason, hint=hint)]


def _class(seen: _Seen) -> DeviceClass:
    known = listed("furiosa", "", pci=seen.device_id)
    if known is not None:
        return known
    return unlisted(vendor="furiosa", kind=Kind.NPU, product=seen.product, memory_bytes=None)


def _health(state: str | None) -> tuple[Health, tuple[str, ...]]:
    """The driver's word; a driver that says nothing is believed to have nothing to say."""
    if state is None or state == ALIVE:
        return Health.HEALTHY, ()
    if whole(state) is None and state != "not alive":
        return Health.DEGRADED, (f"device_state is not a number: {state[:40]!r}",)
    return Health.LOST, (f"the driver says that the card is dead: device_state {state}",)


def _notes(host: Host, card: Card, function: PciFunction | None) -> tuple[tuple[str, str], ...]:
    lanes = pci.lanes_note(host, function.folder) if function is not None else ()
    return (*lanes, *((("governor", card.governor),) if card.governor else ()))


def _reading(part: Part, now: Live, before: Mapping[int, tuple[int, int]]) -> Reading:
    """The card measures its power as one, so a part does not tell it."""
    return Reading(
        memory_used_bytes=used_bytes(part, now),
        utilisation=utilisation(part, now, before),
        temperature_c=now.temperature_c,
        power_w=now.power_w if part.is_whole else None,
        clock_ratio=now.clock_ratio,
        throttled=now.throttled,
        faults=_health(now.state)[1],
    )
