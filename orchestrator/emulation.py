"""From a lab's node to how its Ray processes are started: declared, replayed, or with stand-ins for a vendor's software.

Decides which stand-in a node gets. It must not start processes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from actors import stand_in
from actors.vendors import families
from placement.catalog import classes_of
from placement.devices import DeviceClass
from placement.errors import ShardyardError
from placement.inventory import Inventory

from .errors import ControlError
from .inventory_file import Level
from .lab_file import Lab, LabNode
from .raylets import NodeSettings


def at_level(lab: Lab, level: Level | None) -> Lab:
    """The lab with every node that can be at that level; None = as each node says."""
    if level is None:
        return lab
    classes = classes_of(lab.inventory)
    nodes = tuple(
        replace(node, level=level if level == "declared" or _family(node, classes) else node.level)
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
    family = _family(node, classes)
    reason = (
        stand_in.missing(family) if family else "its devices are not of one family that has one"
    )
    if reason:
        raise _impossible(node, reason)
    ((device_class, count),) = Counter(d.device_class for d in node.devices).items()
    place = folder / f"node-{node.id}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        made = stand_in.stand_in(family, place, device_class, count)
    except (ShardyardError, ValueError) as error:
        raise _impossible(node, str(error)) from error
    return NodeSettings(name=node.id, rack=node.rack, probes=family, stand_in=made)


def _family(node: LabNode, classes: Mapping[str, DeviceClass]) -> str:
    """The family whose software can be made to believe in a node's devices; empty when there is none."""
    kinds = {d.device_class for d in node.devices}
    if len(kinds) != 1 or node.recording is not None:
        return ""
    vendor = classes[kinds.pop()].vendor
    named = (name for name, family in families().items() if family.vendor == vendor)
    return next((name for name in named if not stand_in.missing(name)), "")


def _impossible(node: LabNode, reason: str) -> ControlError:
    return ControlError(
        f"node {node.id} cannot be emulated at the level of its vendor's library here: {reason}",
        hint="--level declared    or    `level: declared` at the node",
        node=node.id,
    )
