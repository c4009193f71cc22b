"""From an inventory file to the core's nouns. A lab is an inventory file whose nodes are emulated.

Decides the keys of a node and of the whole file; how `cpu` and `devices` are read is `actors.declared`'s, so that an
emulated node and an inventory file agree. It must not know Ray, plans or specs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from actors.declared import devices_of
from actors.declared_classes import class_notes
from placement.calibration import Calibration
from placement.catalog import catalog
from placement.devices import DeviceClass, Dtype
from placement.errors import SpecError
from placement.ids import NodeId
from placement.inventory import Artifact, Inventory, Link, ModelPresence, Node
from placement.modelspec import ModelFacts
from placement.units import GBIT

from .calibrations import Measurement, calibration
from .replayed import replayed
from .spec import read_spec, spec_name
from .spec_grammar import MAX_CONCURRENCY, MAX_TOKENS, Facts, Positive, Source, Strict, Word
from .yaml_positions import Document, did_you_mean, place, read_yaml

MAX_BYTES = 8 << 20
MAX_VALUES = 1_000_000

_FIGURES = (
    "memory_gib",
    "memory_gbyte_per_s",
    "tflops",
    "watts",
    "idle_watts",
    "link_gbyte_per_s",
    "price_per_hour",
    "kind",
    "vendor",
)


class _Artifact(Strict):
    model: str
    device_class: Word = Field(alias="class")
    tp: Annotated[int, Field(ge=1, le=4096)] = 1
    batch: Annotated[int, Field(ge=0, le=MAX_CONCURRENCY)] = 0
    length: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0
    dtype: Dtype | None = None


Level = Literal["declared", "library"]
"""How deep an emulated node pretends: to us only, or to the vendors' own software."""


class _Presence(Strict):
    """What a node says of one model source; written by `devices -o yaml`."""

    source: Source
    present: bool = True
    path: str = ""
    facts: Facts | None = None
    reason: str = ""
    hint: str = ""


class NodeEntry(Strict):
    """One node of the file; `actors.declared` reads `cpu` and `devices`."""

    rack: str = ""
    cordoned: bool = False
    emulated: bool = False
    level: Level = "declared"
    recording: str = ""
    cpu: dict[str, Any] | None = None
    devices: list[dict[str, Any]] = Field(default_factory=list)
    artifacts: list[_Artifact] = Field(default_factory=list)
    engines: list[Word] | None = None
    models: list[_Presence] | None = None


class _Link(Strict):
    between: Any
    gbit_per_s: Positive
    latency_us: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0


class InventoryFile(Strict):
    """A whole inventory or lab file."""

    generation: Annotated[int, Field(ge=0)] = 0
    nodes: Annotated[dict[Word, NodeEntry], Field(min_length=1, max_length=10_000)]
    links: list[_Link] = Field(default_factory=list)
    calibrations: list[Measurement] = Field(default_factory=list)
    spec: str | None = None


def load_inventory(path: str | Path) -> Inventory:
    """The inventory of a file; `-` is standard input.

    Raises:
        SpecError: the file is missing or wrong; with file and line.
    """
    return read_inventory(path)[0]


def parse_inventory(text: str, name: str) -> Inventory:
    """The inventory in a text; `name` is used in messages. Raises as `load_inventory` does."""
    return _parsed(text, name, Path.cwd())[0]


def read_inventory(path: str | Path) -> tuple[Inventory, InventoryFile, Document]:
    """The inventory with the file that it was read from. Raises as `load_inventory` does."""
    text = read_spec(path, max_bytes=MAX_BYTES)
    return _parsed(text, spec_name(path), Path(path).resolve().parent)


def _parsed(text: str, name: str, base: Path) -> tuple[Inventory, InventoryFile, Document]:
    """`base` is the folder that paths in the text start from."""
    document = read_yaml(text, name, max_bytes=MAX_BYTES, max_values=MAX_VALUES)
    file = _share_figures(document.validate(InventoryFile))
    known = catalog()
    classes: dict[str, DeviceClass] = {}
    nodes = []
    for key, declared in sorted(file.nodes.items()):
        node, own = _node(key, declared, known, document, base)
        nodes.append(node)
        _add_classes(classes, own, document, key)
    inventory = Inventory(
        generation=file.generation,
        nodes=tuple(nodes),
        links=tuple(_link(k, link, file, document) for k, link in enumerate(file.links)),
        classes=tuple(classes[key] for key in sorted(classes)),
        calibrations=tuple(_calibrations(file, document)),
        notes=tuple(n for key in sorted(classes) for n in class_notes(classes[key], known)),
    )
    return inventory, file, document


def _share_figures(file: InventoryFile) -> InventoryFile:
    """A class whose facts one entry gives may be named without them by all other entries."""
    known = catalog()
    facts: dict[str, dict[str, Any]] = {}
    for entry in _entries(file):
        figures = {k: entry[k] for k in _FIGURES if k in entry}
        if "tflops" in figures and str(entry.get("class")) not in known:
            facts.setdefault(str(entry.get("class")), figures)
    nodes = {
        name: node.model_copy(
            update={"devices": [{**facts.get(str(e.get("class")), {}), **e} for e in node.devices]}
        )
        for name, node in file.nodes.items()
    }
    return file.model_copy(update={"nodes": nodes})


def _entries(file: InventoryFile) -> Iterator[dict[str, Any]]:
    for node in file.nodes.values():
        yield from node.devices


def _add_classes(
    classes: dict[str, DeviceClass], own: tuple[DeviceClass, ...], document: Document, node: str
) -> None:
    for found in own:
        if classes.setdefault(found.name, found) != found:
            says = f"other nodes give other figures for the device class {found.name}"
            hint = "give one class one set of figures, or two classes two names"
            raise document.error(("nodes", node, "devices"), says, hint=hint)


def _node(
    key: str,
    declared: NodeEntry,
    known: Mapping[str, DeviceClass],
    document: Document,
    base: Path,
) -> tuple[Node, tuple[DeviceClass, ...]]:
    if declared.recording:
        return _replayed(key, declared, document, base)
    declaration = {"cpu": declared.cpu, "devices": bare_entries(declared)}
    try:
        found, classes = devices_of(NodeId(key), declaration, known, emulated=declared.emulated)
    except SpecError as error:
        path = error.fields.get("path", [])
        says = error.message.removeprefix(place(path))
        raise document.error(("nodes", key, *path), says, hint=error.hint) from None
    flags = _emulated_flags(key, declared, document)
    devices = tuple(
        device if device.emulated is flag else replace(device, emulated=flag)
        for device, flag in zip(found, flags, strict=True)
    )
    node = Node(
        id=NodeId(key),
        rack=declared.rack,
        cores=0 if declared.cpu is None else declared.cpu["cores"],
        memory_bytes=sum(d.memory_bytes for d in devices if d.id == f"{key}/cpu0"),
        devices=devices,
        cordoned=declared.cordoned,
        engines=None if declared.engines is None else frozenset(declared.engines),
        models=None if declared.models is None else tuple(map(_presence, declared.models)),
        artifacts=tuple(
            Artifact(
                model=a.model,
                device_class=a.device_class,
                tp=a.tp,
                batch=a.batch,
                length=a.length,
                dtype=a.dtype,
            )
            for a in declared.artifacts
        ),
    )
    return node, classes


def _replayed(
    key: str, declared: NodeEntry, document: Document, base: Path
) -> tuple[Node, tuple[DeviceClass, ...]]:
    """A node that is a recorded machine: its devices are what the probes find there."""
    path = ("nodes", key, "recording")
    if declared.cpu is not None or declared.devices or not declared.emulated:
        says = "a recorded node is emulated and declares no devices"
        raise document.error(path, says, hint="emulated: true, without cpu and devices")
    try:
        report = replayed(NodeId(key), base / declared.recording)
    except SpecError as error:
        raise document.error(path, error.message, hint=error.hint) from None
    node = replace(
        report.as_node(),
        rack=declared.rack,
        cordoned=declared.cordoned,
        engines=None if declared.engines is None else frozenset(declared.engines),
        models=None,
    )
    return node, report.classes


def _calibrations(file: InventoryFile, document: Document) -> Iterator[Calibration]:
    for index, entry in enumerate(file.calibrations):
        found = calibration(entry)
        if isinstance(found, str):
            raise document.error(("calibrations", index), found)
        yield found


def bare_entries(node: NodeEntry) -> list[dict[str, Any]]:
    """The entries without the key that only this file has."""
    return [{k: v for k, v in entry.items() if k != "emulated"} for entry in node.devices]


def _emulated_flags(key: str, node: NodeEntry, document: Document) -> list[bool]:
    """Whether each device, in order of position and then the CPU, is emulated."""
    flags: list[bool] = []
    for index, entry in enumerate(node.devices):
        flag = entry.get("emulated", node.emulated)
        if not isinstance(flag, bool):
            path = ("nodes", key, "devices", index, "emulated")
            raise document.error(path, f"should be true or false, not {flag}")
        flags += [flag] * entry.get("count", 1)
    return flags + [node.emulated] * (node.cpu is not None)


def _presence(presence: _Presence) -> ModelPresence:
    facts = None if presence.facts is None else ModelFacts(**presence.facts.model_dump())
    return ModelPresence(
        source=presence.source,
        present=presence.present,
        path=presence.path,
        facts=facts,
        reason=presence.reason,
        hint=presence.hint,
    )


def _link(index: int, link: _Link, file: InventoryFile, document: Document) -> Link:
    return Link(
        between=_ends(("links", index, "between"), link.between, file, document),
        bytes_per_s=link.gbit_per_s * GBIT,
        latency_s=link.latency_us / 1e6,
    )


def _ends(
    path: tuple[str | int, ...], between: Any, file: InventoryFile, document: Document
) -> Literal["nodes", "racks"] | tuple[NodeId, NodeId]:
    if between in ("nodes", "racks"):
        return between
    if not isinstance(between, list) or len(between) != 2 or between[0] == between[1]:
        says = f"should be nodes, racks or two names of nodes, not {between}"
        raise document.error(path, says)
    for end in between:
        if not isinstance(end, str) or end not in file.nodes:
            hint = did_you_mean(end, file.nodes)
            raise document.error(path, f"no node is called {end}", hint=hint)
    return NodeId(between[0]), NodeId(between[1])
