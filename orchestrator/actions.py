"""Everything the controller can do to the cluster, as a closed union. Each one may be repeated without harm."""

from __future__ import annotations

from dataclasses import dataclass

from actors.slot import SlotSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAgent:
    """Start the agent of a node that has none."""

    incarnation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Solve:
    """Plan this revision on this generation of the inventory."""

    revision: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSlot:
    """Hand a slot to Ray Serve."""

    spec: SlotSpec
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSlot:
    """Remove a slot from Ray Serve; its replica drains."""

    slot: str
    reason: str


Action = StartAgent | Solve | StartSlot | StopSlot
