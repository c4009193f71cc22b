"""An immutable snapshot of the whole cluster. The controller makes one per generation; nothing here is ever persisted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .calibration import Calibration
from .devices import Device, DeviceClass, Dtype
from .engine_facts import EngineFacts
from .ids import DeviceId, NodeId
from .modelspec import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelForm:
    """A form in which the files of a model lie on a node, e.g. `gguf`, `safetensors`, `onnx`.

    Attributes:
        dtype: that it was prepared in, which settles what an engine that reads it computes; None = any.
    """

    format: str
    dtype: Dtype | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPresence:
    """What a node says of one model source: it has it, or why not and which command mends it.

    Attributes:
        forms: that it has there; empty = nobody said, then every engine may read it.
    """

    source: str
    present: bool
    path: str = ""
    facts: ModelFacts | None = None
    reason: str = ""
    hint: str = ""
    forms: tuple[ModelForm, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A compiled model that a node holds.

    Attributes:
        batch: sequences per step that it was compiled for; 0 = it takes any number.
        length: longest sequence in tokens that it was compiled for; 0 = any.
        dtype: None = nobody said.
    """

    model: str
    device_class: str
    tp: int
    batch: int = 0
    length: int = 0
    dtype: Dtype | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of the cluster.

    Attributes:
        incarnation: changes when the node leaves and returns (Ray's node id); empty in a file.
        engines: engines that can start there; None when nobody asked (an inventory file), then the catalog decides.
        models: sources that it was asked about; None when nobody asked, then every source counts as present.
    """

    id: NodeId
    rack: str = ""
    incarnation: str = ""
    cores: int = 0
    memory_bytes: int = 0
    devices: tuple[Device, ...] = ()
    cordoned: bool = False
    cordon_reason: str = ""
    engines: frozenset[str] | None = None
    models: tuple[ModelPresence, ...] | None = None
    artifacts: tuple[Artifact, ...] = ()

    def presence(self, source: str) -> ModelPresence | None:
        """What this node says of a source; None when it was not asked."""
        return next((m for m in self.models or () if m.source == source), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network path: the default inside a rack (`nodes`), between racks, or between two named nodes."""

    between: Literal["nodes", "racks"] | tuple[NodeId, NodeId]
    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All nodes at one moment.

    Attributes:
        generation: rises by one whenever what can be placed where has changed; a plan is valid for one generation.
        nodes: sorted by id.
        classes: device classes that the catalog does not have, or overrides of it.
        engines: engines that the catalog does not have.
        calibrations: what real engines were measured to do; they beat the figures of the classes.
        notes: what was assumed while the inventory was read, for people; decides nothing.
    """

    generation: int = 0
    nodes: tuple[Node, ...] = ()
    links: tuple[Link, ...] = ()
    classes: tuple[DeviceClass, ...] = ()
    engines: tuple[EngineFacts, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    def node(self, node: NodeId) -> Node | None:
        """The node of that name, or None."""
        return next((n for n in self.nodes if n.id == node), None)

    def device(self, device: DeviceId) -> Device | None:
        """The device of that id, or None."""
        return next((d for n in self.nodes for d in n.devices if d.id == device), None)
