"""Collapses devices into pools: sets that no rule can tell apart. Also says which nodes each model may not use, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .catalog import classes_of
from .constraint import Block, Pool
from .demand import Demand
from .devices import Device, DeviceClass, Health, at_speed
from .forms import Forms, forms_on
from .ids import ModelId, NodeId
from .inventory import Artifact, Inventory, Node
from .plan import Rejection
from .rules import NODE_RULES


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """Everything that a rule may look at."""

    device_class: str
    memory_bytes: int
    shares: int
    emulated: bool
    speed: float
    engines: frozenset[str] | None
    artifacts: frozenset[Artifact]
    models: frozenset[ModelId]
    forms: Forms

    def order(
        self,
    ) -> tuple[str, int, int, bool, float, list[str], list[str], list[str], list[str]]:
        """A fixed order over keys, large and fast devices first."""
        return (
            self.device_class,
            -self.memory_bytes,
            -self.shares,
            self.emulated,
            -self.speed,
            sorted(self.engines or ()),
            sorted(map(str, self.artifacts)),
            sorted(self.models),
            sorted(f"{source} {sorted(map(str, forms))}" for source, forms in self.forms),
        )


def node_rejections(demands: Sequence[Demand], inventory: Inventory) -> tuple[Rejection, ...]:
    """The first reason against each node and model; nodes that may be used do not appear."""
    found: dict[tuple[ModelId, str], Rejection] = {}
    for refuse in NODE_RULES:
        for rejection in refuse(demands, inventory.nodes):
            found.setdefault((rejection.model, rejection.node), rejection)
    return tuple(found.values())


def health_rejections(demands: Sequence[Demand], inventory: Inventory) -> tuple[Rejection, ...]:
    """Per model one row for each node and class with devices that are not healthy."""
    counts: dict[tuple[NodeId, str], int] = defaultdict(int)
    for node in inventory.nodes:
        for device in node.devices:
            if device.health is not Health.HEALTHY:
                counts[node.id, device.device_class] += 1
    return tuple(
        Rejection(
            model=demand.id,
            constraint="availability",
            device_class=device_class,
            node=node,
            reason=f"{count} of the {device_class} devices of {node} are not healthy",
            shortage=float(count),
            resolvable=True,
            hint="see what `shardyard devices` says of them",
        )
        for demand in demands
        for (node, device_class), count in counts.items()
    )


def collapse(
    demands: tuple[Demand, ...], inventory: Inventory, refused: Iterable[Rejection]
) -> tuple[Pool, ...]:
    """Pools of healthy devices, in a fixed order; `refused` are the node rejections."""
    classes = classes_of(inventory)
    sources = frozenset(d.model.source for d in demands)
    groups: dict[_Key, list[tuple[Node, Device]]] = defaultdict(list)
    for node, models in _users(demands, inventory, refused):
        artifacts, forms = frozenset(node.artifacts), forms_on(node, sources)
        keys: dict[tuple[str, int, int, bool, float], _Key] = {}
        for device in node.devices:
            if device.health is not Health.HEALTHY:
                continue
            kind = (
                device.device_class,
                device.memory_bytes,
                device.shares,
                device.emulated,
                device.speed,
            )
            if kind not in keys:
                keys[kind] = _key(node, device, models, artifacts, forms)
            groups[keys[kind]].append((node, device))
    counts: dict[str, int] = defaultdict(int)
    pools = []
    for key in sorted(groups, key=_Key.order):
        device_class = key.device_class
        counts[device_class] += 1
        suffix = f"#{counts[device_class]}" if counts[device_class] > 1 else ""
        figures = at_speed(classes[device_class], key.speed)
        pools.append(_pool(device_class + suffix, figures, key, groups[key]))
    return tuple(pools)


def _users(
    demands: tuple[Demand, ...], inventory: Inventory, refused: Iterable[Rejection]
) -> Iterator[tuple[Node, frozenset[ModelId]]]:
    """Each node with the models that may use it; equal sets are one object, which makes comparing them cheap."""
    against: dict[str, set[ModelId]] = defaultdict(set)
    for rejection in refused:
        against[rejection.node].add(rejection.model)
    everybody = frozenset(d.id for d in demands)
    known: dict[frozenset[ModelId], frozenset[ModelId]] = {}
    for node in inventory.nodes:
        models = everybody - against[node.id] if node.id in against else everybody
        yield node, known.setdefault(models, models)


def _key(
    node: Node,
    device: Device,
    models: frozenset[ModelId],
    artifacts: frozenset[Artifact],
    forms: Forms,
) -> _Key:
    return _Key(
        device_class=device.device_class,
        memory_bytes=device.memory_bytes,
        shares=device.shares,
        emulated=device.emulated,
        speed=device.speed,
        engines=node.engines,
        artifacts=artifacts,
        models=models,
        # What is emulated reads no files.
        forms=frozenset() if device.emulated else forms,
    )


def _pool(
    name: str, device_class: DeviceClass, key: _Key, members: list[tuple[Node, Device]]
) -> Pool:
    return Pool(
        name=name,
        device_class=device_class,
        memory_bytes=key.memory_bytes,
        shares=key.shares,
        emulated=key.emulated,
        engines=key.engines,
        artifacts=key.artifacts,
        models=key.models,
        blocks=_blocks(members),
        compiled=_by_model(key.artifacts),
        forms=key.forms,
    )


def _by_model(artifacts: frozenset[Artifact]) -> Mapping[str, tuple[Artifact, ...]]:
    found: dict[str, list[Artifact]] = defaultdict(list)
    for artifact in sorted(artifacts, key=str):
        found[artifact.model].append(artifact)
    return {model: tuple(own) for model, own in found.items()}


def _blocks(members: list[tuple[Node, Device]]) -> tuple[Block, ...]:
    islands: dict[tuple[str, str, int], list[Device]] = defaultdict(list)
    for node, device in members:
        islands[node.id, node.rack, device.island].append(device)
    return tuple(
        Block(node=devices[0].node, rack=rack, island=island, devices=tuple(d.id for d in devices))
        for (_, rack, island), devices in sorted(islands.items())
    )
