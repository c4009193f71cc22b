"""What a router may know of a replica: the controller's registry entry plus this gateway's own counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ReplicaState = Literal["loading", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEntry:
    """One row of the controller's registry.

    Attributes:
        slot: planned replica, e.g. `smollm2/r0`.
        incarnation: Serve's replica tag, new for every process.
        model: name that clients use.
        concurrency: sequences it decodes at once; `queue` more may wait in it.
        state: only `ready` replicas get new requests.
        load_ratio: done fraction of loading, 1 when ready.
        emulated: declared devices, emulated engine.
        window: longest sequence in tokens.
        pid: of the Serve replica's process, whose process group holds its engine.
    """

    slot: str
    incarnation: str
    model: str
    engine: str
    device_class: str
    node: str
    host: str
    port: int
    pid: int
    concurrency: int
    queue: int
    window: int
    state: ReplicaState = "loading"
    load_ratio: float = 0.0
    emulated: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A model name that is asked for, whether or not a replica of it is up yet."""

    id: str
    created: int
    emulated: bool
    window: int
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryTable:
    """The controller's registry at one version. Gateways keep the last one while the controller is away."""

    version: int
    models: tuple[ModelEntry, ...] = ()
    replicas: tuple[ReplicaEntry, ...] = ()
