"""Compares desired with observed and says what to do next: `reconcile(state, now) -> actions`. Pure.

Called after every event and on every tick; at a fixed point it returns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from actors.slot import SlotSpec, slot_spec
from placement.devices import Device, Health
from placement.plan import Plan, Slot

from .actions import Action, Solve, StartAgent, StartSlot, StopSlot
from .state import State

SETTLE_S = 10.0
"""A fresh controller waits this long for nodes that Ray lists but that have not reported yet."""

AGENT_RETRY_S = 15.0
"""An agent that never reported is asked for again after this time."""

START_GRACE_S = 120.0
START_FACTOR = 4.0
"""A slot may need START_GRACE_S plus START_FACTOR times its predicted load time before it counts as failed."""


def reconcile(state: State, now: float) -> tuple[Action, ...]:
    """The actions that bring the cluster closer to what was asked for."""
    return (
        *_agents(state, now),
        *_solve(state, now),
        *_stops(state, now),
        *_starts(state, now),
    )


def start_deadline(spec: SlotSpec, now: float) -> float:
    """When a slot handed over now counts as failed unless it is ready."""
    return now + START_GRACE_S + START_FACTOR * spec.load_s


def wanted_slots(state: State) -> dict[str, tuple[SlotSpec, tuple[str, ...]]]:
    """The slots of the plan in force whose nodes and devices are still there, by id, with their devices."""
    if state.app is None or state.plan is None:
        return {}
    demands = {demand.id: demand for demand in state.app.demands}
    devices = _devices(state)
    return {
        slot.id: (
            slot_spec(slot, demands[slot.model], devices, calibrate=_is_unmeasured(state, slot)),
            tuple(slot.devices),
        )
        for slot in _surviving(state, state.plan)
        if slot.model in demands
    }


def _is_unmeasured(state: State, slot: Slot) -> bool:
    """Whether nobody has measured that engine with that model and layout on that class."""
    layout = (
        slot.model,
        slot.device_class,
        slot.engine,
        slot.dtype,
        slot.tp,
        slot.stages[0].shares,
    )
    return not slot.emulated and all(
        layout != (c.model, c.device_class, c.engine, c.dtype, c.tp, c.shares)
        for c in state.calibrations
    )


def missing_reports(state: State) -> frozenset[str]:
    """Incarnations that Ray lists, and whose report is still to come."""
    reported = {node.report.incarnation for node in state.nodes.values()}
    return state.incarnations - reported - set(state.refused)


def _devices(state: State) -> dict[str, Device]:
    return {device.id: device for node in state.nodes.values() for device in node.report.devices}


def _surviving(state: State, plan: Plan) -> Iterator[Slot]:
    devices = _devices(state).values()
    present = {device.id for device in devices if device.health is not Health.LOST}
    for slot in plan.slots:
        if all(device in present for device in slot.devices):
            yield slot


def _agents(state: State, now: float) -> Iterator[Action]:
    for incarnation in sorted(missing_reports(state)):
        asked_at = state.agents.get(incarnation)
        if asked_at is None or now - asked_at > AGENT_RETRY_S:
            yield StartAgent(incarnation=incarnation)


def _solve(state: State, now: float) -> Iterator[Action]:
    if state.app is None or state.solved_for == (state.revision, state.generation):
        return
    settling = now - state.started_at < SETTLE_S
    if settling and (missing_reports(state) or not state.nodes):
        return
    yield Solve(revision=state.revision, generation=state.generation)


def _stops(state: State, now: float) -> Iterator[Action]:
    if _plan_is_pending(state):
        return
    wanted = wanted_slots(state)
    for name in sorted(state.slots):
        slot = state.slots[name]
        if slot.phase == "stopping":
            continue
        if name not in wanted:
            yield StopSlot(slot=name, reason="not in the plan any more")
        elif slot.fingerprint and slot.fingerprint != wanted[name][0].fingerprint:
            yield StopSlot(slot=name, reason="the plan changed it")
        elif slot.phase == "failed":
            yield StopSlot(slot=name, reason=slot.detail)
        elif slot.phase == "starting" and now > slot.deadline:
            yield StopSlot(slot=name, reason="it did not become ready in time")


def _starts(state: State, now: float) -> Iterator[Action]:
    if _plan_is_pending(state):
        return
    for name, (spec, devices) in sorted(wanted_slots(state).items()):
        failure = state.failures.get(name)
        waits = failure is not None and now < failure.retry_at
        if name not in state.slots and not waits:
            yield StartSlot(spec=spec, devices=devices)


def _plan_is_pending(state: State) -> bool:
    """No answer yet for the newest spec or inventory: what runs is left alone."""
    return state.solved_for != (state.revision, state.generation)
