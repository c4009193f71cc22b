"""One node of an inventory file: the keys that it has, and what they become.

Decides what may stand beside `cpu` and `devices`, which `actors.declared` reads, so that an emulated node and an
inventory file agree. It must not know the rest of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from actors.declared import devices_of
from placement.devices import DeviceClass, Dtype
from placement.errors import SpecError
from placement.ids import NodeId
from placement.inventory import Artifact, ModelForm, ModelPresence, Node
from placement.modelspec import ModelFacts

from .replayed import replayed
from .spec_grammar import MAX_CONCURRENCY, MAX_TOKENS, Facts, Source, Strict, Word
from .yaml_positions import Document, place


class _Artifact(Strict):
    model: str
    device_class: Word = Field(alias="class")
    tp: Annotated[int, Field(ge=1, le=4096)] = 1
    batch: Annotated[int, Field(ge=0, le=MAX_CONCURRENCY)] = 0
    length: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0
    dtype: Dtype | None = None


Level = Literal["declared", "library"]
"""How deep an emulated node pretends: to us only, or to the vendors' own software."""


class _Form(Strict):
    format: Word
    dtype: Dtype | None = None


class _Presence(Strict):
    """What a node says of one model source; written by `devices -o yaml`."""

    source: Source
    present: bool = True
    path: str = ""
    facts: Facts | None = None
    reason: str = ""
    hint: str = ""
    forms: list[_Form] = Field(default_factory=list)


class NodeEntry(Strict):
    """One node of the file; `actors.declared` reads `cpu` and `devices`."""

    rack: str = ""
    cordoned: bool = False
    emulated: bool = Field(default=False, description="No such hardware is behind the node.")
    level: Level | None = Field(
        default=None,
        description="How deep an emulated node pretends: to us only (declared, the default), or to its vendor's own "
        "software (library).",
    )
    recording: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="A folder that `shardyard capture` wrote, from this file's; its devices are the node's.",
    )
    cpu: dict[str, Any] | None = None
    devices: list[dict[str, Any]] = Field(default_factory=list)
    artifacts: list[_Artifact] = Field(default_factory=list)
    engines: list[Word] | None = None
    models: list[_Presence] | None = None


def node_of(
    key: str,
    declared: NodeEntry,
    known: Mapping[str, DeviceClass],
    document: Document,
    base: Path,
) -> tuple[Node, tuple[DeviceClass, ...]]:
    """The node of an entry, with new or changed classes.

    Args:
        base: the folder that paths in the file start from.

    Raises:
        SpecError: with file and line.
    """
    if declared.recording is not None:
        return _replayed(key, declared.recording, declared, document, base)
    if declared.level == "library" and not declared.emulated:
        says = "only an emulated node has a level"
        raise document.error(("nodes", key, "level"), says, hint="add `emulated: true` to the node")
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
        models=_models(declared),
        artifacts=_artifacts(declared),
    )
    return node, classes


def _replayed(
    key: str, recording: str, declared: NodeEntry, document: Document, base: Path
) -> tuple[Node, tuple[DeviceClass, ...]]:
    """A node that is a recorded machine: its devices are what the probes find there."""
    path = ("nodes", key, "recording")
    if declared.cpu is not None or declared.devices or declared.level or not declared.emulated:
        says = "a recorded node is emulated and declares neither devices nor a level"
        hint = "emulated: true, without cpu, devices and level"
        raise document.error(path, says, hint=hint)
    try:
        report = replayed(NodeId(key), base / recording)
    except SpecError as error:
        raise document.error(path, error.message, hint=error.hint) from None
    node = replace(
        report.as_node(),
        rack=declared.rack,
        cordoned=declared.cordoned,
        engines=None if declared.engines is None else frozenset(declared.engines),
        models=_models(declared),
        artifacts=_artifacts(declared),
    )
    return node, report.classes


def _models(declared: NodeEntry) -> tuple[ModelPresence, ...] | None:
    return None if declared.models is None else tuple(map(_presence, declared.models))


def _artifacts(declared: NodeEntry) -> tuple[Artifact, ...]:
    return tuple(
        Artifact(
            model=a.model,
            device_class=a.device_class,
            tp=a.tp,
            batch=a.batch,
            length=a.length,
            dtype=a.dtype,
        )
        for a in declared.artifacts
    )


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
        forms=tuple(ModelForm(format=f.format, dtype=f.dtype) for f in presence.forms),
    )
