"""From an inventory file to the core's nouns. A lab is an inventory file whose nodes are emulated.

Decides the keys of the whole file; a node's are those of `node_entries`. It must not know Ray, plans or specs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from actors.declared_classes import class_notes
from placement.calibration import Calibration
from placement.catalog import catalog, engines
from placement.devices import DeviceClass
from placement.engine_facts import EngineFacts
from placement.ids import NodeId
from placement.inventory import Inventory, Link
from placement.units import GBIT

from .calibrations import Measurement, calibration
from .engine_entries import EngineEntry, engine_facts
from .node_entries import NodeEntry, node_of
from .spec import read_spec, spec_name
from .spec_grammar import Positive, Strict, Word
from .yaml_positions import Document, did_you_mean, read_yaml

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


class _Link(Strict):
    between: Any
    gbit_per_s: Positive
    latency_us: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0


class InventoryFile(Strict):
    """A whole inventory or lab file."""

    generation: Annotated[int, Field(ge=0)] = 0
    nodes: Annotated[dict[Word, NodeEntry], Field(min_length=1, max_length=10_000)]
    engines: Annotated[dict[Word, EngineEntry], Field(max_length=100)] = Field(
        default_factory=dict, description="Engines that the catalog does not have."
    )
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
        node, own = node_of(key, declared, known, document, base)
        nodes.append(node)
        _add_classes(classes, own, document, key)
    inventory = Inventory(
        generation=file.generation,
        nodes=tuple(nodes),
        links=tuple(_link(k, link, file, document) for k, link in enumerate(file.links)),
        classes=tuple(classes[key] for key in sorted(classes)),
        engines=tuple(_engines(file, document)),
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


def _engines(file: InventoryFile, document: Document) -> Iterator[EngineFacts]:
    for name, entry in sorted(file.engines.items()):
        if name in engines():
            says = f"{name} is an engine of the catalog"
            raise document.error(("engines", name), says, hint="give your own another name")
        yield engine_facts(name, entry)


def _calibrations(file: InventoryFile, document: Document) -> Iterator[Calibration]:
    for index, entry in enumerate(file.calibrations):
        found = calibration(entry)
        if isinstance(found, str):
            raise document.error(("calibrations", index), found)
        yield found


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
