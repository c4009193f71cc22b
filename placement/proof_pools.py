"""Which devices are equal, as the proof sees them: the verifier's own collapse of nodes into pools.

Written from the rules' definitions, apart from the solver's; knows no layouts, prices or plans.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from .catalog import classes_of
from .demand import App, Demand
from .devices import Device, DeviceClass, Health, at_speed
from .ids import DeviceId, ModelId, NodeId
from .inventory import Artifact, Inventory, ModelForm, Node
from .remote import is_remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Healthy devices of one pool in one interconnect island of a node."""

    node: NodeId
    rack: str
    island: int
    devices: tuple[DeviceId, ...]


_Forms = frozenset[tuple[str, frozenset[ModelForm]]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Healthy devices that no rule can tell apart.

    Attributes:
        name: of its class, with `#k` from the second pool of a class on.
        memory_bytes, shares: of each device.
        models: that may use its nodes.
        forms: of the sources of models, as its nodes tell; none of what is emulated, which reads no files.
    """

    name: str
    device_class: DeviceClass
    memory_bytes: int
    shares: int
    emulated: bool
    engines: frozenset[str] | None
    artifacts: frozenset[Artifact]
    models: frozenset[ModelId]
    forms: _Forms
    blocks: tuple[Block, ...]

    @property
    def devices(self) -> int:
        """Number of its devices."""
        return sum(len(block.devices) for block in self.blocks)

    @property
    def nodes(self) -> int:
        """Number of nodes that it has devices on."""
        return len({block.node for block in self.blocks})

    @property
    def largest(self) -> int:
        """Devices of its largest block."""
        return max(len(block.devices) for block in self.blocks)


_Kin = tuple[
    str,
    int,
    int,
    bool,
    float,
    frozenset[str] | None,
    frozenset[Artifact],
    frozenset[ModelId],
    _Forms,
]
"""Class, memory, shares, emulated, speed, engines, artifacts, models, forms: all that a rule may look at."""


def pools_of(app: App, inventory: Inventory) -> tuple[Pool, ...]:
    """The pools in the order in which their names are numbered: large devices of a class first."""
    classes, welcome = classes_of(inventory), _Welcome(app)
    members: dict[_Kin, list[tuple[Node, Device]]] = defaultdict(list)
    for node in inventory.nodes:
        artifacts, models = frozenset(node.artifacts), welcome.models(node)
        forms = _told(app, node)
        for device in node.devices:
            if device.health is Health.HEALTHY:
                kin = (device.device_class, device.memory_bytes, device.shares, device.emulated)
                own = frozenset() if device.emulated else forms
                rest = (device.speed, node.engines, artifacts, models, own)
                members[*kin, *rest].append((node, device))
    made: list[Pool] = []
    for kin in sorted(members, key=_order):
        number = 1 + sum(pool.device_class.name == kin[0] for pool in made)
        made.append(_pool(kin, number, classes, members[kin]))
    return tuple(made)


def _told(app: App, node: Node) -> _Forms:
    """What a node tells of the forms of the models that are asked for."""
    first = {m.source: frozenset(m.forms) for m in reversed(node.models or ())}
    asked = {d.model.source for d in app.demands} if any(first.values()) else set()
    return frozenset((source, own) for source, own in first.items() if own and source in asked)


def _order(kin: _Kin) -> tuple[object, ...]:
    name, memory, shares, emulated, speed, engines, artifacts, models, forms = kin
    return (
        (name, -memory, -shares, emulated, -speed),
        sorted(engines or ()),
        sorted(map(str, artifacts)),
        sorted(models),
        sorted(f"{source} {sorted(map(str, own))}" for source, own in forms),
    )


def _pool(
    kin: _Kin, number: int, classes: Mapping[str, DeviceClass], members: list[tuple[Node, Device]]
) -> Pool:
    name, memory, shares, emulated, speed, engines, artifacts, models, forms = kin
    islands: dict[tuple[str, int], list[tuple[Node, Device]]] = defaultdict(list)
    for node, device in members:
        islands[node.id, device.island].append((node, device))
    return Pool(
        name=name if number == 1 else f"{name}#{number}",
        device_class=at_speed(classes[name], speed),
        memory_bytes=memory,
        shares=shares,
        emulated=emulated,
        engines=engines,
        artifacts=artifacts,
        models=models,
        forms=forms,
        blocks=tuple(
            Block(
                node=own[0][0].id,
                rack=own[0][0].rack,
                island=own[0][1].island,
                devices=tuple(device.id for _, device in own),
            )
            for own in islands.values()
        ),
    )


class _Welcome:
    """Which models may use a node; nodes that differ in nothing that matters share one answer."""

    def __init__(self, app: App) -> None:
        self._demands = app.demands
        self._pinned: dict[NodeId, set[ModelId]] = defaultdict(set)
        for demand in app.demands:
            for node in demand.pin_nodes or ():
                self._pinned[node].add(demand.id)
        self._known: dict[object, frozenset[ModelId]] = {}

    def models(self, node: Node) -> frozenset[ModelId]:
        """Models that are neither pinned elsewhere nor without their sources there; none on a cordoned node."""
        pinned = frozenset(self._pinned.get(node.id, ()))
        real = any(not device.emulated for device in node.devices)
        key = (node.cordoned, pinned, real, node.models)
        if key not in self._known:
            self._known[key] = frozenset(
                d.id
                for d in self._demands
                if not node.cordoned
                and (d.pin_nodes is None or d.id in pinned)
                and _present(d, node, real)
            )
        return self._known[key]


def _present(demand: Demand, node: Node, real: bool) -> bool:
    """Whether the node has the tokenizer and, for real devices, the weights."""
    if node.models is None:
        return True
    needed = {demand.model.tokenizer} | ({demand.model.source} if real else set())
    if real:
        # What an endpoint serves lies with it.
        needed = {source for source in needed if not is_remote(source)}
    return all((found := node.presence(s)) is not None and found.present for s in needed)
