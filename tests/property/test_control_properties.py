"""The fold and the reconciler under any order of events: nothing raises, invariants hold, and a fixed point is reached."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from support.control_plane import a_plan, a_report, a_slot, an_app, an_entry, yaml_of

from orchestrator.actions import Solve, StartAgent, StartSlot, StopSlot
from orchestrator.events import (
    AgentStarted,
    Event,
    NodeReported,
    NodeSilent,
    NodesObserved,
    ReplicaGone,
    ReplicaReported,
    SlotFailed,
    SlotsObserved,
    SlotStarted,
    SlotStopping,
    Solved,
    SpecApplied,
)
from orchestrator.reconcile import reconcile, wanted_slots
from orchestrator.state import State, apply, inventory

NODES = ("n1", "n2", "n3")
SLOTS = ("tiny/r0", "tiny/r1")

times = st.floats(min_value=0, max_value=1000)
nodes = st.sampled_from(NODES)
slots = st.sampled_from(SLOTS)


@st.composite
def plans(draw: st.DrawFn) -> Solved:
    placed = draw(st.lists(st.tuples(slots, nodes), max_size=2, unique_by=lambda p: p[0]))
    plan = a_plan(*(a_slot(slot, f"{node}/cpu0") for slot, node in placed))
    return Solved(
        outcome=plan,
        revision=draw(st.integers(0, 3)),
        generation=draw(st.integers(0, 5)),
    )


events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        SpecApplied,
        app=st.builds(an_app, replicas=st.integers(1, 2)),
        yaml=st.just(yaml_of()),
        revision=st.integers(1, 3),
    ),
    st.builds(
        NodesObserved,
        incarnations=st.frozensets(st.sampled_from([f"ray-{n}" for n in NODES])),
        at=times,
    ),
    st.builds(AgentStarted, incarnation=st.sampled_from([f"ray-{n}" for n in NODES]), at=times),
    st.builds(NodeReported, report=st.builds(a_report, nodes), at=times),
    st.builds(NodeSilent, node=nodes, at=times),
    plans(),
    st.builds(
        SlotStarted,
        slot=slots,
        fingerprint=st.sampled_from(["a", "b"]),
        devices=st.just(("n1/cpu0",)),
        nodes=st.just(("n1",)),
        deadline=times,
        at=times,
    ),
    st.builds(SlotStopping, slot=slots, at=times),
    st.builds(
        SlotsObserved,
        slots=st.lists(st.tuples(slots, st.just("")), max_size=2).map(tuple),
        at=times,
    ),
    st.builds(SlotFailed, slot=slots, reason=st.just("no"), at=times),
    st.builds(
        ReplicaReported,
        entry=st.builds(
            an_entry, slots, state=st.sampled_from(["loading", "ready", "draining", "failed"])
        ),
        at=times,
    ),
    st.builds(ReplicaGone, slot=slots, incarnation=st.sampled_from(["i1", "other"])),
)


def fold(history: list[Event]) -> list[State]:
    states = [State()]
    for event in history:
        states.append(apply(states[-1], event))
    return states


@given(st.lists(events, max_size=40))
@settings(deadline=None)
def test_any_order_of_events_keeps_the_invariants(history: list[Event]) -> None:
    states = fold(history)
    for before, after in itertools.pairwise(states):
        assert after.generation >= before.generation
        assert after.registry_version >= before.registry_version
        assert (inventory(before).nodes != inventory(after).nodes) == (
            after.generation > before.generation
        )
        assert all(name == node.report.node for name, node in after.nodes.items())
        assert all(name == row.entry.slot for name, row in after.replicas.items())


@given(st.lists(events, max_size=40), times)
@settings(deadline=None)
def test_actions_never_contradict_each_other(history: list[Event], now: float) -> None:
    state = fold(history)[-1]
    actions = reconcile(state, now)
    started = {a.spec.id for a in actions if isinstance(a, StartSlot)}
    stopped = {a.slot for a in actions if isinstance(a, StopSlot)}
    assert not started & stopped
    assert not started & set(state.slots)
    assert stopped <= set(state.slots)
    assert started <= set(wanted_slots(state))


@given(st.lists(events, max_size=40))
@settings(deadline=None)
def test_nothing_is_changed_while_an_answer_is_due(history: list[Event]) -> None:
    state = replace(fold(history)[-1], solved_for=None)
    touched = [a for a in reconcile(state, 5000.0) if isinstance(a, StartSlot | StopSlot)]
    assert touched == []


@given(st.lists(events, max_size=40))
@settings(deadline=None)
def test_carrying_actions_out_reaches_a_fixed_point(history: list[Event]) -> None:
    now = 10_000.0
    state = fold(history)[-1]
    for _ in range(12):
        actions = reconcile(state, now)
        if not actions:
            return
        for action in actions:
            state = carried_out(state, action, now)
        now += 1.0
    raise AssertionError(f"still busy: {reconcile(state, now)}")


def carried_out(state: State, action: object, now: float) -> State:
    """What a cluster that always obeys would report back."""
    match action:
        case StartAgent():
            node = action.incarnation.removeprefix("ray-")
            return apply(state, NodeReported(report=a_report(node), at=now))
        case Solve():
            free = sorted(d.id for n in inventory(state).nodes for d in n.devices)
            plan = a_plan(*(a_slot("tiny/r0", device) for device in free[:1]))
            return apply(
                state,
                Solved(outcome=plan, revision=action.revision, generation=action.generation),
            )
        case StartSlot():
            spec = action.spec
            started = SlotStarted(
                slot=spec.id,
                fingerprint=spec.fingerprint,
                devices=action.devices,
                nodes=spec.nodes,
                deadline=now + 100,
                at=now,
            )
            return apply(apply(state, started), ReplicaReported(entry=an_entry(spec.id), at=now))
        case StopSlot():
            left = tuple((s, "") for s in state.slots if s != action.slot)
            return apply(
                apply(state, SlotStopping(slot=action.slot, at=now)),
                SlotsObserved(slots=left, at=now + 10),
            )
        case _:
            raise AssertionError(action)
