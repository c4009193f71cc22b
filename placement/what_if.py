"""Another inventory, for the question "what if": changes are values, and this is what each of them does.

Writes a change as the text that `plan --what-if` reads; reading that text is the command line's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TypeAlias

from .catalog import classes_of
from .devices import Device, DeviceClass, Health, Kind
from .errors import SpecError
from .ids import DeviceId, NodeId
from .inventory import Inventory, Link, Node

MOST_DEVICES = 100_000
"""Added by one change at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddDevices:
    """Devices of one class on a node, which is new where no node has that name.

    They look like the class's devices there already and join their island where these share one.
    """

    node: str
    device_class: str
    count: int

    def __str__(self) -> str:
        return f"+{self.count} {self.device_class}@{self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDevices:
    """The last devices of one class of a node, by position."""

    node: str
    device_class: str
    count: int

    def __str__(self) -> str:
        return f"-{self.count} {self.device_class}@{self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDevice:
    """One device, by its id."""

    device: str

    def __str__(self) -> str:
        return f"-device {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddNode:
    """A new node, or several equal ones: `name-1`, `name-2`, ...

    Attributes:
        parts: (device class, count) pairs; the devices of each share an island.
    """

    node: str
    parts: tuple[tuple[str, int], ...]
    rack: str = ""
    count: int = 1

    def __str__(self) -> str:
        number = "" if self.count == 1 else f"{self.count} "
        rack = f"@{self.rack}" if self.rack else ""
        parts = ", ".join(f"{count} {name}" for name, count in self.parts)
        return f"+{number}node {self.node}{rack}: {parts}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNode:
    """A node with all that is on it."""

    node: str

    def __str__(self) -> str:
        return f"-node {self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRack:
    """Every node of a rack."""

    rack: str

    def __str__(self) -> str:
        return f"-rack {self.rack}"


InventoryChange: TypeAlias = (
    AddDevices | RemoveDevices | RemoveDevice | AddNode | RemoveNode | RemoveRack
)


def changed(inventory: Inventory, changes: Iterable[InventoryChange]) -> Inventory:
    """The inventory after all changes, in their order; one generation later when there are any.

    >>> from .inventory import Node
    >>> more = changed(Inventory(), [AddNode(node="n", parts=(("NVIDIA_L4_24G", 2),))])
    >>> [device.id for device in more.nodes[0].devices]
    ['n/0', 'n/1']

    Raises:
        SpecError: a change names what is not there, or adds a node that is.
    """
    after = inventory
    for change in changes:
        after = _apply(after, change)
    if after is inventory:
        return inventory
    return replace(after, generation=inventory.generation + 1)


def _apply(inventory: Inventory, change: InventoryChange) -> Inventory:
    match change:
        case AddDevices():
            return _add_devices(inventory, change)
        case AddNode():
            return _add_nodes(inventory, change, change)
        case RemoveDevices():
            return _remove_devices(inventory, change)
        case RemoveDevice():
            return _remove_device(inventory, change)
        case RemoveNode():
            _known_node(inventory, change.node, change)
            return _without(inventory, {change.node})
        case RemoveRack():
            return _remove_rack(inventory, change)


def _add_devices(inventory: Inventory, change: AddDevices) -> Inventory:
    node = inventory.node(NodeId(change.node))
    if node is None:
        parts = ((change.device_class, change.count),)
        return _add_nodes(inventory, AddNode(node=change.node, parts=parts), change)
    added = _devices(inventory, node, change.device_class, change.count, change)
    return _with_node(inventory, replace(node, devices=(*node.devices, *added)))


def _add_nodes(inventory: Inventory, change: AddNode, asked: InventoryChange) -> Inventory:
    names = [change.node]
    if change.count > 1:
        names = [f"{change.node}-{k}" for k in range(1, change.count + 1)]
    there = {node.id for node in inventory.nodes}
    for name in names:
        if name in there:
            says = f"what if {asked}: there is a node {name} already"
            raise SpecError(says, hint=f"add devices to it: +2 {change.parts[0][0]}@{name}")
    first = Node(id=NodeId(names[0]), rack=change.rack)
    for device_class, count in change.parts:
        found = _devices(inventory, first, device_class, count, asked)
        first = replace(first, devices=(*first.devices, *found))
    nodes = (first, *(_twin(first, NodeId(name)) for name in names[1:]))
    return replace(inventory, nodes=tuple(sorted((*inventory.nodes, *nodes), key=lambda n: n.id)))


def _twin(node: Node, name: NodeId) -> Node:
    """The same node under another name."""
    own = tuple(
        replace(d, id=DeviceId(f"{name}/{d.id.rpartition('/')[2]}"), node=name)
        for d in node.devices
    )
    return replace(node, id=name, devices=own)


def _devices(
    inventory: Inventory, node: Node, device_class: str, count: int, change: InventoryChange
) -> tuple[Device, ...]:
    """New devices for a node, in the likeness of the class's devices there or elsewhere."""
    if not 1 <= count <= MOST_DEVICES:
        says = f"what if {change}: {count} devices cannot be added"
        raise SpecError(says, hint=f"give a number from 1 to {MOST_DEVICES}")
    known = classes_of(inventory)
    if device_class not in known:
        says = f"what if {change}: no device class {device_class}"
        raise SpecError(says, hint=nearest(device_class, known))
    own = [d for d in node.devices if d.device_class == device_class]
    elsewhere = (d for n in inventory.nodes for d in n.devices if d.device_class == device_class)
    like = own[0] if own else next(elsewhere, None)
    sample = like or _sample(known[device_class], change)
    islands = {d.island for d in own}
    island = islands.pop() if len(islands) == 1 else _next(d.island for d in node.devices)
    cpu = known[device_class].kind is Kind.CPU
    first = _next(_positions(node, "cpu" if cpu else ""))
    return tuple(
        replace(
            sample,
            id=DeviceId(f"{node.id}/{'cpu' if cpu else ''}{first + k}"),
            node=node.id,
            island=island,
            health=Health.HEALTHY,
            emulated=_emulated(inventory, node),
            identity="",
            handle="",
        )
        for k in range(count)
    )


def _sample(known: DeviceClass, change: InventoryChange) -> Device:
    if known.memory_bytes <= 0:
        says = f"what if {change}: nothing says how large a {known.name} is"
        raise SpecError(says, hint="add it to the inventory file, with its cores and memory")
    return Device(
        id=DeviceId(""), node=NodeId(""), device_class=known.name, memory_bytes=known.memory_bytes
    )


def _emulated(inventory: Inventory, node: Node) -> bool:
    """Declared, as all devices around it are."""
    around = node.devices or tuple(d for n in inventory.nodes for d in n.devices)
    return bool(around) and all(device.emulated for device in around)


def _positions(node: Node, prefix: str) -> Iterable[int]:
    """Numbers that are taken: of accelerators without a prefix, of CPUs with theirs."""
    tails = (d.id.rpartition("/")[2] for d in node.devices)
    numbers = (tail.removeprefix(prefix) for tail in tails if tail.startswith(prefix))
    return (int(number) for number in numbers if number.isdecimal())


def _next(numbers: Iterable[int]) -> int:
    return max(numbers, default=-1) + 1


def _remove_devices(inventory: Inventory, change: RemoveDevices) -> Inventory:
    node = _known_node(inventory, change.node, change)
    own = [d.id for d in node.devices if d.device_class == change.device_class]
    if not 1 <= change.count <= len(own):
        there = sorted({d.device_class for d in node.devices})
        says = f"what if {change}: node {node.id} has {len(own)} {change.device_class}"
        raise SpecError(says, hint=f"classes there: {', '.join(there) or 'none'}")
    gone = set(own[-change.count :])
    left = tuple(d for d in node.devices if d.id not in gone)
    return _with_node(inventory, replace(node, devices=left))


def _remove_device(inventory: Inventory, change: RemoveDevice) -> Inventory:
    found = inventory.device(DeviceId(change.device))
    if found is None:
        every = [d.id for n in inventory.nodes for d in n.devices]
        says = f"what if {change}: no device is called {change.device}"
        raise SpecError(says, hint=nearest(change.device, every))
    node = _known_node(inventory, found.node, change)
    left = tuple(d for d in node.devices if d.id != found.id)
    return _with_node(inventory, replace(node, devices=left))


def _remove_rack(inventory: Inventory, change: RemoveRack) -> Inventory:
    gone = {node.id for node in inventory.nodes if node.rack == change.rack}
    if not gone:
        says = f"what if {change}: no node is in a rack called {change.rack}"
        raise SpecError(says, hint=nearest(change.rack, {n.rack for n in inventory.nodes} - {""}))
    return _without(inventory, set(gone))


def _known_node(inventory: Inventory, name: str, change: InventoryChange) -> Node:
    node = inventory.node(NodeId(name))
    if node is None:
        says = f"what if {change}: no node is called {name}"
        raise SpecError(says, hint=nearest(name, [n.id for n in inventory.nodes]))
    return node


def _with_node(inventory: Inventory, node: Node) -> Inventory:
    nodes = tuple(node if n.id == node.id else n for n in inventory.nodes)
    return replace(inventory, nodes=nodes)


def _without(inventory: Inventory, gone: set[str]) -> Inventory:
    def stays(link: Link) -> bool:
        return isinstance(link.between, str) or gone.isdisjoint(link.between)

    return replace(
        inventory,
        nodes=tuple(n for n in inventory.nodes if n.id not in gone),
        links=tuple(filter(stays, inventory.links)),
    )


def nearest(wrong: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or some of them."""
    names = sorted(known)
    near = get_close_matches(wrong, names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"known: {', '.join(names[:12])}{more}" if names else "there is none"
