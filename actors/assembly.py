"""From what the probes of a node found to its devices, facts and links, each device under its health. Pure but for the
positions that were given out before.

Decides what a device is called, what models may use of it, and which devices are an island. It must not know how
anything was found.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from placement.catalog import catalog
from placement.devices import Device, DeviceClass, Kind
from placement.ids import DeviceId, NodeId
from placement.interconnect import Bond, Interconnect, bonds, islands

from .positions import Positions
from .probe import Accelerator, Found
from .product import usable_bytes
from .report import BrokenProbe, DeviceFacts
from .trust import MOST_DEVICES, flaw_of_accelerator, flaw_of_class, flaw_of_device


@dataclass(slots=True)
class Assembly:
    """The devices of one look, before their health is known.

    Attributes:
        owner: device -> name of the probe that found it.
        dropped: values that are not believed.
    """

    devices: list[Device] = field(default_factory=list)
    facts: dict[DeviceId, DeviceFacts] = field(default_factory=dict)
    accelerators: dict[DeviceId, Accelerator] = field(default_factory=dict)
    owner: dict[DeviceId, str] = field(default_factory=dict)
    bonds: tuple[Bond, ...] = ()
    classes: tuple[DeviceClass, ...] = ()
    dropped: list[BrokenProbe] = field(default_factory=list)


def assemble(
    node: NodeId, found: Sequence[tuple[str, Found]], positions: Positions, *, emulated: bool
) -> Assembly:
    """Devices of everything that makes sense, and one entry for each value that does not."""
    made = Assembly()
    made.classes = tuple(_believed_classes(found, made))
    _place(node, found, made)
    _number(node, found, made, positions)
    if emulated:
        made.devices = [dataclasses.replace(d, emulated=True) for d in made.devices]
    return made


def _believed_classes(found: Sequence[tuple[str, Found]], made: Assembly) -> Iterable[DeviceClass]:
    seen: dict[str, DeviceClass] = {}
    for name, outcome in found:
        for given in outcome.classes:
            flaw = flaw_of_class(given)
            if flaw:
                made.dropped.append(BrokenProbe(name=name, reason=flaw))
            else:
                seen.setdefault(given.name, given)
    return seen.values()


def _place(node: NodeId, found: Sequence[tuple[str, Found]], made: Assembly) -> None:
    """Devices that come with their ids."""
    ids: set[str] = set()
    identities: set[str] = set()
    for name, outcome in found:
        for device in outcome.devices[:MOST_DEVICES]:
            flaw = flaw_of_device(node, device) or _repeats(device, ids, identities)
            if flaw:
                made.dropped.append(BrokenProbe(name=name, reason=flaw))
                continue
            made.devices.append(device)
            made.owner[device.id] = name
            ids.add(device.id)
            identities.add(device.identity)
        _too_many(name, len(outcome.devices), made)


def _repeats(device: Device, ids: set[str], identities: set[str]) -> str | None:
    if device.id in ids:
        return f"device {device.id!r} was reported twice"
    if device.identity and device.identity in identities:
        return f"device {device.id!r} has the identity {device.identity!r} of another"
    return None


def _too_many(name: str, count: int, made: Assembly) -> None:
    if count > MOST_DEVICES:
        reason = f"{count} devices; only {MOST_DEVICES} are believed"
        made.dropped.append(BrokenProbe(name=name, reason=reason))


def _number(
    node: NodeId, found: Sequence[tuple[str, Found]], made: Assembly, positions: Positions
) -> None:
    """Accelerators get the position that their identity has had before, else the next one."""
    classes = {**catalog(), **{c.name: c for c in made.classes}}
    believed = _believed(found, classes, made)
    taken = positions.of((a.identity, a.pci or a.identity) for _, a in believed)
    ids = {a.identity: DeviceId(f"{node}/{taken[a.identity]}") for _, a in believed}
    believed = [(name, a) for name, a in believed if _is_free(name, ids[a.identity], made)]
    links: dict[tuple[str, str], Interconnect] = {
        (ids[a], ids[b]): link
        for _, outcome in found
        for (a, b), link in (outcome.links or {}).items()
        if a in ids and b in ids and isinstance(link, Interconnect)
    }
    made.bonds = bonds(links)
    island = _islands(believed, ids, classes, made)
    for name, one in sorted(believed, key=lambda pair: taken[pair[1].identity]):
        device = _device(node, ids[one.identity], one, classes[one.device_class], island)
        made.devices.append(device)
        made.owner[device.id] = name
        made.accelerators[device.id] = one
        made.facts[device.id] = _facts(device.id, one)


def _is_free(name: str, device: DeviceId, made: Assembly) -> bool:
    if device not in made.owner:
        return True
    reason = f"{device} is the id of a device that the probe {made.owner[device]} has placed"
    made.dropped.append(BrokenProbe(name=name, reason=reason))
    return False


def _believed(
    found: Sequence[tuple[str, Found]], classes: Mapping[str, DeviceClass], made: Assembly
) -> list[tuple[str, Accelerator]]:
    kept: dict[str, tuple[str, Accelerator]] = {}
    for name, outcome in found:
        for one in outcome.accelerators[:MOST_DEVICES]:
            flaw = flaw_of_accelerator(one, classes)
            if flaw is None and one.identity in kept:
                flaw = f"{one.product} was reported twice as {one.identity}"
            if flaw is None and not usable_bytes(classes[one.device_class], one.memory_bytes):
                remote = classes[one.device_class].kind is Kind.REMOTE
                flaw = None if remote else f"{one.product} ({one.identity}) tells no memory"
            if flaw:
                made.dropped.append(BrokenProbe(name=name, reason=flaw))
            else:
                kept[one.identity] = (name, one)
        _too_many(name, len(outcome.accelerators), made)
    return list(kept.values())


def _islands(
    believed: Sequence[tuple[str, Accelerator]],
    ids: Mapping[str, DeviceId],
    classes: Mapping[str, DeviceClass],
    made: Assembly,
) -> dict[str, int]:
    """Islands by device; those of processors keep their own numbers. Endpoints and PIM ranks stand alone."""
    groups: dict[str, list[str]] = defaultdict(list)
    for _, one in believed:
        alone = classes[one.device_class].kind in (Kind.REMOTE, Kind.PIM)
        groups[one.identity if alone else one.device_class].append(ids[one.identity])
    first = max((d.island for d in made.devices), default=-1) + 1
    return {d: first + number for d, number in islands(groups.values(), made.bonds).items()}


def _device(
    node: NodeId,
    device: DeviceId,
    one: Accelerator,
    device_class: DeviceClass,
    island: Mapping[str, int],
) -> Device:
    return Device(
        id=device,
        node=node,
        device_class=one.device_class,
        memory_bytes=usable_bytes(device_class, one.memory_bytes),
        shares=one.shares,
        island=island[device],
        health=one.health,
        identity=one.identity,
        handle=one.handle,
    )


def _facts(device: DeviceId, one: Accelerator) -> DeviceFacts:
    shared = {f.name for f in dataclasses.fields(DeviceFacts)} & {
        f.name for f in dataclasses.fields(Accelerator)
    }
    return DeviceFacts(device=device, **{name: getattr(one, name) for name in shared})
