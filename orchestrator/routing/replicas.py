"""What a router may know of a replica: the controller's registry entry plus this gateway's own counts."""

from __future__ import annotations

from dataclasses import dataclass

from actors.registry import ReplicaEntry, ReplicaState

__all__ = ["ModelEntry", "RegistryTable", "ReplicaEntry", "ReplicaState"]


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
