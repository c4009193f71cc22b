"""Everything that can happen to the cluster, as a closed union. `at` is monotonic seconds of the controller's clock."""

from __future__ import annotations

from dataclasses import dataclass

from actors.report import NodeReport, Renewal
from placement.calibration import Calibration
from placement.demand import App
from placement.plan import Infeasible, Plan

from .routing.replicas import ReplicaEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecApplied:
    """A user asked for this app; `revision` rises by one each time."""

    app: App
    yaml: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesObserved:
    """Ray's list of living nodes (their incarnations)."""

    incarnations: frozenset[str]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStarted:
    """A node agent was asked for on this incarnation."""

    incarnation: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReported:
    """A node's agent renewed its lease; `report` is what the planner trusts."""

    report: NodeReport
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRenewed:
    """A node's agent said that its last report still holds."""

    renewal: Renewal
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSilent:
    """A node's lease ran out."""

    node: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """The solver answered for a revision and a generation."""

    outcome: Plan | Infeasible
    revision: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRestored:
    """The plan in force before the controller restarted."""

    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationsRestored:
    """What engines were measured to do before the controller started."""

    calibrations: tuple[Calibration, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStarted:
    """A slot was handed to Ray Serve."""

    slot: str
    fingerprint: str
    devices: tuple[str, ...]
    nodes: tuple[str, ...]
    deadline: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStopping:
    """A slot's removal was asked for."""

    slot: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsObserved:
    """Ray Serve's list of our slots: name and, where it failed for good, why."""

    slots: tuple[tuple[str, str], ...]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFailed:
    """A slot did not come up, or its engine cannot load."""

    slot: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReported:
    """A replica renewed its row in the registry."""

    entry: ReplicaEntry
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaGone:
    """A replica said goodbye, or its row was not renewed."""

    slot: str
    incarnation: str


Event = (
    SpecApplied
    | NodesObserved
    | AgentStarted
    | NodeReported
    | NodeRenewed
    | NodeSilent
    | Solved
    | PlanRestored
    | CalibrationsRestored
    | SlotStarted
    | SlotStopping
    | SlotsObserved
    | SlotFailed
    | ReplicaReported
    | ReplicaGone
)
