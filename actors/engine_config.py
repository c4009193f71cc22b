"""From a planned slot to what its engine is told. Pure: what only the node knows comes in as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from placement.modelspec import ModelFacts
from placement.remote import is_remote
from placement.tuning import Tuning

from .engine import EngineConfig, StagePlace
from .slot import SlotSpec
from .vendors import visibility

REMOTE = "remote"
"""Family of endpoints: their launch handle is their address."""


class Model(Protocol):
    """As much of a model's text side as its engine has to know."""

    @property
    def facts(self) -> ModelFacts:
        """Figures of the model."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a text."""
        ...

    def word_ids(self) -> Sequence[int]:
        """Ids that decode to plain words."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a node adds to a slot.

    Attributes:
        model_path: weights in a form that the engine reads; empty for an engine that needs none.
        artifact: compiled model beside them; empty = there is none.
        cores: logical CPUs for this engine alone; empty = any.
        hosts: address of each stage's node; only for stages on several nodes.
        meeting_port: of the first of them; 0 = there is but one.
        log_path: file for the output of the engine's processes; empty = none.
        owner: mark of the engine's processes.
        tuning: the slot's, with paths of this node; None = as it is.
    """

    model_path: str = ""
    artifact: str = ""
    cores: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()
    meeting_port: int = 0
    log_path: str = ""
    owner: str = ""
    tuning: Tuning | None = None


ANYWHERE = Place()


def engine_config(slot: SlotSpec, model: Model, place: Place, *, window: int) -> EngineConfig:
    """The configuration of a slot's engine."""
    mine = [stage for stage in slot.stages if stage.node == slot.nodes[0]]
    handles = tuple(handle for stage in mine for handle in stage.handles) or slot.handles
    given, unset = visibility(slot.family, handles)
    return EngineConfig(
        model=slot.model,
        source=slot.source,
        model_path=place.model_path,
        artifact=place.artifact,
        facts=model.facts,
        device_class=slot.device_class,
        arithmetic=slot.arithmetic,
        dtype=slot.dtype,
        window=window,
        max_sequences=slot.concurrency,
        kv_bytes=slot.kv_bytes,
        memory_bytes=slot.memory_bytes,
        threads=slot.threads,
        cores=place.cores,
        family=slot.family,
        handles=slot.handles,
        tp=slot.tp,
        stages=_stages(slot, place),
        meeting_port=place.meeting_port,
        endpoint=_endpoint(slot),
        eos_ids=tuple(model.eos_ids),
        tuning=place.tuning or slot.tuning,
        log_path=place.log_path,
        owner=place.owner,
        pace=slot.pace,
        word_ids=tuple(model.word_ids()) if slot.emulated else (),
        environment=tuple(sorted(given.items())),
        unset=tuple(sorted(unset)),
    )


def _endpoint(slot: SlotSpec) -> str:
    """Where a remote server is: below it when the model's source says what it is called there."""
    if slot.family != REMOTE or not slot.handles:
        return ""
    return slot.source if is_remote(slot.source) else slot.handles[0]


def _stages(slot: SlotSpec, place: Place) -> tuple[StagePlace, ...]:
    if len(slot.stages) < 2:
        return ()
    hosts = place.hosts or ("",) * len(slot.stages)
    return tuple(
        StagePlace(host=host, handles=stage.handles, layers=stage.layers)
        for host, stage in zip(hosts, slot.stages, strict=True)
    )
