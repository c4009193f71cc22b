"""What the controller knows, and how each event changes it: `apply(state, event) -> State`. Pure.

Desired state and the plan are journalled by the shell; everything observed lives only here, under a lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar, assert_never

from actors.report import NodeReport
from placement.calibration import Calibration, measured_alike, same_model
from placement.demand import App
from placement.devices import Health
from placement.engine_facts import EngineFacts
from placement.inventory import Inventory, Node
from placement.plan import Infeasible, Plan

from .events import (
    AgentStarted,
    CalibrationsRestored,
    Event,
    NodeRenewed,
    NodeReported,
    NodeSilent,
    NodesObserved,
    PlanRestored,
    ReplicaGone,
    ReplicaReported,
    SlotFailed,
    SlotsObserved,
    SlotStarted,
    SlotStopping,
    Solved,
    SpecApplied,
)
from .reports import foreign_readings, refusal, without_claimed
from .routing.replicas import ReplicaEntry

T = TypeVar("T")

Phase = Literal["starting", "running", "stopping", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A node that reports. `seen_at` renews its lease."""

    report: NodeReport
    seen_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """A slot that Ray Serve has, or is about to have or lose.

    Attributes:
        fingerprint: of the spec it was started with; empty when it was found running (controller restart).
        deadline: when a slot that still starts counts as failed.
    """

    slot: str
    fingerprint: str
    phase: Phase
    since: float
    deadline: float = 0.0
    devices: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """A row of the registry. `seen_at` renews its lease."""

    entry: ReplicaEntry
    seen_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """How often a slot failed in a row, and until when it is left alone."""

    count: int
    retry_at: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything the controller knows at one moment.

    Attributes:
        started_at: when this controller came up; it does not plan before the nodes had time to report.
        code: hash of the packages that every node must run; "" = any.
        refused: living incarnations whose reports are not taken, and why.
        generation: rises when what can be placed where has changed.
        solved_for: (revision, generation) of the last answer.
        registry_version: rises when a gateway must look again.
        calibrations: what engines were measured to do; the next plan uses them, and none is made because of them.
    """

    started_at: float = 0.0
    code: str = ""
    app: App | None = None
    yaml: str = ""
    revision: int = 0
    incarnations: frozenset[str] = frozenset()
    agents: Mapping[str, float] = field(default_factory=dict)
    nodes: Mapping[str, NodeState] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    calibrations: tuple[Calibration, ...] = ()
    plan: Plan | None = None
    infeasible: Infeasible | None = None
    solved_for: tuple[int, int] | None = None
    slots: Mapping[str, SlotState] = field(default_factory=dict)
    failures: Mapping[str, Failures] = field(default_factory=dict)
    replicas: Mapping[str, ReplicaState] = field(default_factory=dict)
    registry_version: int = 0


LISTED_S = 5.0
"""Ray Serve lists an application at the latest this long after it was handed over."""

RETRY_FIRST_S = 2.0
RETRY_LONGEST_S = 60.0


def inventory(state: State) -> Inventory:
    """The inventory of the nodes that report, at the state's generation."""
    reports = [state.nodes[name].report for name in sorted(state.nodes)]
    classes = {c.name: c for report in reports for c in report.classes}
    engines = {e.name: e for report in reports for e in report.engine_facts}
    return Inventory(
        generation=state.generation,
        nodes=tuple(_node(state, report) for report in reports),
        classes=tuple(classes[name] for name in sorted(classes)),
        engines=tuple(engines[name] for name in sorted(engines)),
        calibrations=state.calibrations,
    )


def _node(state: State, report: NodeReport) -> Node:
    """A node that runs other code than the controller gets nothing: the two could misunderstand each other."""
    node = report.as_node()
    if state.code in ("", report.versions.code):
        return node
    reason = f"runs shardyard {report.versions.shardyard} with other code than the controller"
    return replace(node, cordoned=True, cordon_reason=reason)


def apply(state: State, event: Event) -> State:
    """The state after an event. Never raises, whatever the order of events."""
    match event:
        case SpecApplied() | Solved() | PlanRestored():
            return _desired_changed(state, event)
        case NodesObserved() | AgentStarted() | NodeReported() | NodeRenewed() | NodeSilent():
            return _nodes_changed(state, event)
        case SlotStarted() | SlotStopping() | SlotFailed() | SlotsObserved():
            return _slots_changed(state, event)
        case CalibrationsRestored():
            return replace(state, calibrations=event.calibrations)
        case ReplicaReported():
            return _replica_reported(state, event)
        case ReplicaGone():
            return _replica_gone(state, event)
        case _:
            assert_never(event)


def _desired_changed(state: State, event: SpecApplied | Solved | PlanRestored) -> State:
    match event:
        case SpecApplied():
            return _spec_applied(state, event)
        case Solved():
            return _solved(state, event)
        case PlanRestored():
            return replace(state, plan=event.plan)


def _nodes_changed(
    state: State, event: NodesObserved | AgentStarted | NodeReported | NodeRenewed | NodeSilent
) -> State:
    match event:
        case NodesObserved():
            return _nodes_observed(state, event)
        case AgentStarted():
            return replace(state, agents={**state.agents, event.incarnation: event.at})
        case NodeReported():
            return _node_reported(state, event)
        case NodeRenewed():
            return _node_renewed(state, event)
        case NodeSilent():
            return _with_nodes(state, _without(state.nodes, event.node))


def _slots_changed(
    state: State, event: SlotStarted | SlotStopping | SlotFailed | SlotsObserved
) -> State:
    match event:
        case SlotStarted():
            return _slot_started(state, event)
        case SlotStopping():
            return _phase(state, event.slot, "stopping", event.at)
        case SlotFailed():
            return _slot_failed(state, event)
        case SlotsObserved():
            return _slots_observed(state, event)


def _spec_applied(state: State, event: SpecApplied) -> State:
    after = replace(
        state,
        app=event.app,
        yaml=event.yaml,
        revision=event.revision,
        infeasible=None,
        failures={},
    )
    return _bump(after)


def _bump(state: State) -> State:
    return replace(state, registry_version=state.registry_version + 1)


def _without(mapping: Mapping[str, T], key: str) -> Mapping[str, T]:
    return {k: v for k, v in mapping.items() if k != key}


def _with_nodes(state: State, nodes: Mapping[str, NodeState]) -> State:
    """Takes over the nodes; a new generation only when something that placement sees has changed."""
    before = tuple(_planned(state.nodes[name].report) for name in sorted(state.nodes))
    after = tuple(_planned(nodes[name].report) for name in sorted(nodes))
    if before == after:
        return replace(state, nodes=nodes)
    # Routers prefer replicas whose devices are well, so they look again, too.
    return _bump(replace(state, nodes=nodes, generation=state.generation + 1))


FAILING_SPEED = 0.25
"""What a router makes of a replica on a device that gets no new work: others go first until the plan has moved it."""


def speed_of(state: State, slot: str) -> float:
    """What the devices of a slot reach now of what was planned: the slowest counts."""
    planned = state.plan.slots if state.plan is not None else ()
    mine = {device for one in planned if one.id == slot for device in one.devices}
    found = (d for node in state.nodes.values() for d in node.report.devices if d.id in mine)
    speeds = (d.speed if d.health is Health.HEALTHY else FAILING_SPEED for d in found)
    return min(speeds, default=1.0)


def _planned(report: NodeReport) -> tuple[Node, tuple[EngineFacts, ...]]:
    """What plans depend on: of a device that gets no work it does not matter why."""
    node = report.as_node()
    if all(d.health in (Health.HEALTHY, Health.LOST) for d in node.devices):
        return node, report.engine_facts
    devices = tuple(
        d if d.health is Health.HEALTHY else replace(d, health=Health.LOST) for d in node.devices
    )
    return replace(node, devices=devices), report.engine_facts


def _nodes_observed(state: State, event: NodesObserved) -> State:
    living = event.incarnations
    nodes = {name: node for name, node in state.nodes.items() if node.report.incarnation in living}
    agents = {i: at for i, at in state.agents.items() if i in living}
    refused = {i: why for i, why in state.refused.items() if i in living}
    after = replace(state, incarnations=living, agents=agents, refused=refused)
    return _with_nodes(after, nodes)


def _node_reported(state: State, event: NodeReported) -> State:
    report = event.report
    known = state.nodes.get(report.node)
    if known is not None and known.report.incarnation in state.incarnations - {report.incarnation}:
        # Two living nodes claim one name; the first keeps it until it leaves.
        why = f"another living node is called {report.node} too"
        return replace(state, refused={**state.refused, report.incarnation: why})
    why = refusal(report)
    if why:
        return replace(state, refused={**state.refused, report.incarnation: why})
    others = (node.report for name, node in state.nodes.items() if name != report.node)
    seen = NodeState(report=without_claimed(report, others), seen_at=event.at)
    accepted = replace(state, refused=_without(state.refused, report.incarnation))
    return _with_nodes(accepted, {**state.nodes, report.node: seen})


def _node_renewed(state: State, event: NodeRenewed) -> State:
    renewal = event.renewal
    known = state.nodes.get(renewal.node)
    if known is None or known.report.incarnation != renewal.incarnation:
        return state
    if foreign_readings(renewal, known.report):
        return state
    report = replace(known.report, readings=renewal.readings, polls=renewal.polls)
    renewed = NodeState(report=report, seen_at=event.at)
    return replace(state, nodes={**state.nodes, renewal.node: renewed})


def _solved(state: State, event: Solved) -> State:
    solved_for = (event.revision, event.generation)
    if event.revision != state.revision:
        return state
    if isinstance(event.outcome, Infeasible):
        return _bump(replace(state, infeasible=event.outcome, solved_for=solved_for))
    return _bump(replace(state, plan=event.outcome, infeasible=None, solved_for=solved_for))


def _slot_started(state: State, event: SlotStarted) -> State:
    started = SlotState(
        slot=event.slot,
        fingerprint=event.fingerprint,
        phase="starting",
        since=event.at,
        deadline=event.deadline,
        devices=event.devices,
        nodes=event.nodes,
    )
    return replace(state, slots={**state.slots, event.slot: started})


def _phase(state: State, slot: str, phase: Phase, at: float, detail: str = "") -> State:
    known = state.slots.get(slot)
    if known is None or (known.phase == phase and known.detail == detail):
        return state
    changed = replace(known, phase=phase, since=at, detail=detail)
    return replace(state, slots={**state.slots, slot: changed})


def _slot_failed(state: State, event: SlotFailed) -> State:
    before = state.failures.get(event.slot)
    count = 1 if before is None else before.count + 1
    wait_s = min(RETRY_FIRST_S * 2 ** (count - 1), RETRY_LONGEST_S)
    failure = Failures(count=count, retry_at=event.at + wait_s, reason=event.reason)
    failed = _phase(state, event.slot, "failed", event.at, event.reason)
    return _bump(replace(failed, failures={**state.failures, event.slot: failure}))


def _slots_observed(state: State, event: SlotsObserved) -> State:
    """Ray Serve's word on which slots exist: unknown ones are adopted, vanished ones forgotten."""
    present = dict(event.slots)
    slots = {
        name: known
        for name, known in state.slots.items()
        # A slot handed over a moment ago may not be listed yet.
        if name in present or (known.phase == "starting" and event.at - known.since < LISTED_S)
    }
    for name in present:
        if name not in slots:
            slots[name] = SlotState(slot=name, fingerprint="", phase="running", since=event.at)
    return replace(state, slots=slots)


def _replica_reported(state: State, event: ReplicaReported) -> State:
    entry = event.entry
    known = state.replicas.get(entry.slot)
    changed = known is None or known.entry != entry
    row = ReplicaState(entry=entry, seen_at=event.at)
    after = replace(state, replicas={**state.replicas, entry.slot: row})
    if not changed:
        return after
    if entry.calibration is not None and not is_measured(state, entry.calibration):
        after = replace(after, calibrations=(*state.calibrations, entry.calibration))
    after = _bump(after)
    if entry.state == "ready":
        after = replace(after, failures=_without(after.failures, entry.slot))
        return _phase(after, entry.slot, "running", event.at)
    if entry.state == "failed":
        failed = SlotFailed(slot=entry.slot, reason=entry.detail, at=event.at)
        return _slot_failed(after, failed)
    return after


def is_measured(state: State, found: Calibration) -> bool:
    """Whether a measurement of that engine with that model and layout is known."""
    return any(
        measured_alike(found, known) and same_model(found.facts, known.facts)
        for known in state.calibrations
    )


def _replica_gone(state: State, event: ReplicaGone) -> State:
    known = state.replicas.get(event.slot)
    if known is None or known.entry.incarnation != event.incarnation:
        return state
    return _bump(replace(state, replicas=_without(state.replicas, event.slot)))
