"""From a lab file to the nodes that are started for it: an inventory file whose nodes are emulated, on one of three levels.

Decides what each node is started as. It must not start anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from placement.devices import Device
from placement.ids import NodeId
from placement.inventory import Inventory

from .inventory_file import read_inventory
from .node_entries import Level, bare_entries


@dataclass(frozen=True, slots=True, kw_only=True)
class LabNode:
    """One node to emulate.

    Attributes:
        declaration: the keys `cpu` and `devices` as `actors.declared` reads them.
        devices: what they declare, or what the probes find in the recording.
        level: whether only we are told of the devices, or the vendors' own software is.
        recording: a recorded machine that the node replays instead; None = it is declared.
    """

    id: NodeId
    rack: str
    declaration: Mapping[str, Any]
    devices: tuple[Device, ...] = ()
    level: Level = "declared"
    recording: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A cluster to emulate on this machine, and the spec that it serves unless another one is given."""

    inventory: Inventory
    nodes: tuple[LabNode, ...]
    spec: Path | None


def load_lab(path: str | Path) -> Lab:
    """The lab of a file: every node must say `emulated: true`.

    Raises:
        SpecError: the file is missing or wrong, or a node would need real hardware.
    """
    inventory, file, document = read_inventory(path)
    for name, node in file.nodes.items():
        if not node.emulated:
            says = "a lab starts emulated nodes only"
            raise document.error(("nodes", name), says, hint="add `emulated: true` to the node")
    base = Path(path).resolve().parent
    devices = {node.id: node.devices for node in inventory.nodes}
    nodes = tuple(
        LabNode(
            id=NodeId(name),
            rack=node.rack,
            declaration={"cpu": node.cpu, "devices": bare_entries(node)},
            devices=devices[NodeId(name)],
            level=node.level or "declared",
            recording=None if node.recording is None else (base / node.recording).resolve(),
        )
        for name, node in sorted(file.nodes.items())
    )
    spec = None if file.spec is None else Path(path).parent / file.spec
    return Lab(inventory=inventory, nodes=nodes, spec=spec)
