"""From a lab's node to how its Ray processes are started: declared, replayed, or with stand-ins for a vendor's software.

Decides which stand-in a node gets. It must not start processes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from actors import stand_in
from actors.vendors import families
from placement.catalog import classes_of
from placement.devices import DeviceClass
from placement.errors import ShardyardError
from placement.inventory import Inventory

from .errors import ControlError
from .lab_file import Lab, LabNode
from .node_entries import Level
from .raylets import NodeSettings

_SAYABLE = frozenset({"class", "count", "emulated"})
"""Keys of an entry that a stand-in can make true; of the others it would tell something else."""


def at_level(lab: Lab, level: Level | None) -> Lab:
    """The lab with every node that can be at that level here; None = as each node says."""
    if level is None:
        return lab
    classes = classes_of(lab.inventory)
    nodes = tuple(
        replace(node, level=level) if level == "declared" or _can(node, classes) else node
        for node in lab.nodes
    )
    return replace(lab, nodes=nodes)


def settings_of(node: LabNode, inventory: Inventory, folder: Path) -> NodeSettings:
    """How a node is started.

    Args:
        folder: of this run, for what stand-ins write; removed with the run.

    Raises:
        ControlError: the node cannot be at its level here; says why and what works instead.
    """
    if node.recording is not None:
        return NodeSettings(name=node.id, rack=node.rack, recording=str(node.recording))
    if node.level == "declared":
        return NodeSettings(name=node.id, rack=node.rack, emulate=json.dumps(node.declaration))
    return _with_stand_in(node, classes_of(inventory), folder)


def _with_stand_in(node: LabNode, classes: Mapping[str, DeviceClass], folder: Path) -> NodeSettings:
    pretended = _pretended(node, classes)
    if isinstance(pretended, str):
        raise _impossible(node, pretended)
    place = folder / f"node-{node.id}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        made = stand_in.stand_in(pretended.family, place, pretended.device_class, pretended.count)
    except (ShardyardError, ValueError) as error:
        raise _impossible(node, str(error)) from error
    return NodeSettings(name=node.id, rack=node.rack, probes=pretended.family, stand_in=made)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pretended:
    """What a family's stand-in is asked for."""

    family: str
    device_class: str
    count: int


def _can(node: LabNode, classes: Mapping[str, DeviceClass]) -> bool:
    return node.recording is None and isinstance(_pretended(node, classes), _Pretended)


def _pretended(node: LabNode, classes: Mapping[str, DeviceClass]) -> _Pretended | str:
    """What stands in for the node's devices; a sentence when nothing does here."""
    counts = Counter(d.device_class for d in node.devices)
    if len(counts) != 1:
        named = ", ".join(sorted(counts)) or "none"
        return f"only devices of one class can be there, and nothing else; it has {named}"
    ((name, count),) = counts.items()
    said = sorted({key for entry in node.declaration["devices"] for key in entry} - _SAYABLE)
    if said:
        return f"a vendor's library cannot be told {', '.join(said)}"
    vendor = classes[name].vendor
    named = [key for key, family in families().items() if family.vendor == vendor]
    reasons = {family: stand_in.missing(family) for family in named}
    family = next((family for family, reason in reasons.items() if not reason), None)
    if family is not None:
        return _Pretended(family=family, device_class=name, count=count)
    return "; ".join(reasons.values()) or f"no library tells of devices of {vendor}"


def _impossible(node: LabNode, reason: str) -> ControlError:
    return ControlError(
        f"node {node.id} cannot be emulated at the level of its vendor's library here: {reason}",
        hint="--level declared    or    `level: declared` at the node",
        node=node.id,
    )
