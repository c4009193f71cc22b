"""What the controller needs of the world, as protocols; Ray fills them in production, fakes in tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.slot import SlotSpec
from placement.calibration import Calibration
from placement.plan import Plan


class Clock(Protocol):
    """Monotonic seconds, and the date."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...

    def unix_s(self) -> int:
        """Seconds since 1970, for people and clients; may jump."""
        ...


class Cluster(Protocol):
    """The nodes that Ray knows."""

    async def incarnations(self) -> frozenset[str]:
        """Living nodes."""
        ...

    async def start_agent(self, incarnation: str) -> None:
        """Starts, or finds, the agent of one node."""
        ...


class Deployments(Protocol):
    """The slots that Ray Serve runs."""

    async def start(self, specs: Sequence[SlotSpec]) -> None:
        """Hands slots over; returns before they are up."""
        ...

    async def stop(self, slots: Sequence[str]) -> None:
        """Removes slots; their replicas drain."""
        ...

    async def observe(self) -> tuple[tuple[str, str], ...]:
        """Every slot that exists, with the reason where it failed for good."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the journal keeps: the spec as the user wrote it, its revision, and the plan in force."""

    yaml: str
    revision: int
    plan: Plan | None


class Calibrations(Protocol):
    """Memory of what engines were measured to do."""

    def load(self) -> tuple[Calibration, ...]:
        """All that is kept; what cannot be read is left out."""
        ...

    def keep(self, found: Calibration) -> None:
        """Returns once it is on disk, or could not be written."""
        ...


class Journal(Protocol):
    """Crash-safe memory of the desired state."""

    def load(self) -> Desired | None:
        """The last saved state, or None at the first start."""
        ...

    def save(self, desired: Desired) -> None:
        """Returns once it is on disk."""
        ...
