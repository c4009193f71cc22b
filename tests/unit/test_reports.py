"""What the controller believes of a report: of its own node, from its own agent, of devices that nobody else has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.control_plane import World, a_report

from actors.agent_token import agent_token, is_agent
from actors.report import DeviceFacts, NodeReport, Reading, Renewal
from orchestrator.errors import ControlError
from orchestrator.events import NodeRenewed, NodeReported, NodesObserved
from orchestrator.problems import problems
from orchestrator.reports import refusal, without_claimed
from orchestrator.state import State, apply, inventory, speed_of
from placement.devices import Device, Health
from placement.engine_facts import EngineFacts
from placement.ids import DeviceId, NodeId
from placement.interconnect import Bond, Interconnect, LinkKind


def gpu(node: str, position: int = 0, **changes) -> Device:
    whole = Device(
        id=DeviceId(f"{node}/{position}"),
        node=NodeId(node),
        device_class="NVIDIA_H100_80G",
        memory_bytes=2**36,
        identity=f"nvidia:GPU-{node}-{position}",
    )
    return replace(whole, **changes)


def report(node: str, *devices: Device, **changes) -> NodeReport:
    return replace(a_report(node), devices=devices or (gpu(node),), emulated=False, **changes)


def seen(*reports: NodeReport, state: State | None = None, at: float = 0.0) -> State:
    state = state or State()
    living = frozenset({*state.incarnations, *(r.incarnation for r in reports)})
    state = apply(state, NodesObserved(incarnations=living, at=at))
    for one in reports:
        state = apply(state, NodeReported(report=one, at=at))
    return state


def test_an_endpoint_has_no_memory_of_ours() -> None:
    endpoint = gpu("n1", memory_bytes=0, identity="remote:h.example/v1", device_class="REMOTE_H")
    assert refusal(report("n1", endpoint)) == ""
    assert "memory_bytes 0" in refusal(report("n1", gpu("n1", memory_bytes=0)))


@pytest.mark.parametrize(
    "lie",
    [
        report("n1", gpu("n2")),
        report("n1", gpu("n1"), gpu("n1")),
        report("n1", replace(gpu("n1"), node=NodeId("n2"))),
        report("n1", gpu("n1", memory_bytes=-1)),
        report("n1", facts=(DeviceFacts(device=DeviceId("n2/0")),)),
        report("n1", readings=((DeviceId("n2/0"), Reading(power_w=1.0)),)),
        report(
            "n1",
            bonds=(Bond(members=("n1/0", "n2/0"), link=Interconnect(kind=LinkKind.DIRECT)),),
        ),
        report("n1", *(gpu("n1", k) for k in range(5000))),
    ],
)
def test_a_report_that_speaks_of_other_nodes_is_not_taken(lie):
    assert refusal(lie)
    state = seen(report("n2"), lie)
    assert set(state.nodes) == {"n2"}
    assert state.refused[lie.incarnation] == refusal(lie)
    assert any(refusal(lie) == p["reason"] for p in problems(state))
    mended = apply(state, NodeReported(report=report("n1"), at=1.0))
    assert set(mended.nodes) == {"n1", "n2"}
    assert mended.refused == {}


def test_a_device_that_another_node_has_reported_counts_once():
    thief = report("n2", gpu("n2", identity="nvidia:GPU-n1-0"), gpu("n2", 1))
    state = seen(report("n1"), thief)
    assert [d.id for d in state.nodes["n2"].report.devices] == ["n2/1"]
    assert "n1" in state.nodes["n2"].report.broken[0].reason
    freed = apply(state, NodesObserved(incarnations=frozenset({thief.incarnation}), at=1.0))
    alone = apply(freed, NodeReported(report=thief, at=1.0))
    assert [d.id for d in alone.nodes["n2"].report.devices] == ["n2/0", "n2/1"]


def test_processors_and_emulated_nodes_may_repeat_identities():
    for identity in ("cpu:machine:numa0", ""):
        mine, other = (report(n, gpu(n, identity=identity)) for n in ("n1", "n2"))
        assert without_claimed(mine, [other]) == mine
    pretended = replace(report("n1", gpu("n1", identity="nvidia:GPU-n2-0")), emulated=True)
    assert without_claimed(pretended, [report("n2")]) == pretended


def test_a_renewal_brings_readings_and_no_new_generation():
    state = seen(report("n1"))
    reading = (DeviceId("n1/0"), Reading(power_w=300.0))
    renewal = Renewal(node=NodeId("n1"), incarnation=report("n1").incarnation, readings=(reading,))
    after = apply(state, NodeRenewed(renewal=renewal, at=7.0))
    assert after.nodes["n1"].report.readings == (reading,)
    assert after.nodes["n1"].seen_at == 7.0
    assert after.generation == state.generation
    for wrong in (
        replace(renewal, incarnation="another"),
        replace(renewal, node=NodeId("n9")),
        replace(renewal, readings=((DeviceId("n2/0"), Reading()),)),
    ):
        assert apply(state, NodeRenewed(renewal=wrong, at=7.0)) == state


def test_only_what_plans_depend_on_is_a_new_generation():
    state = seen(report("n1"))
    lost = seen(report("n1", gpu("n1", health=Health.LOST)), state=state)
    assert lost.generation == state.generation + 1
    probation = seen(report("n1", gpu("n1", health=Health.RECOVERED)), state=lost)
    assert probation.generation == lost.generation
    well = seen(report("n1"), state=probation)
    assert well.generation == lost.generation + 1
    slow = seen(report("n1", gpu("n1", speed=0.5)), state=well)
    assert slow.generation == well.generation + 1


def test_a_sick_device_is_a_problem_with_its_evidence():
    facts = (DeviceFacts(device=DeviceId("n1/0"), evidence=("Xid 79: fallen off the bus",)),)
    state = seen(report("n1", gpu("n1", health=Health.LOST), facts=facts))
    (problem,) = [p for p in problems(state) if p["where"] == "n1/0"]
    assert problem["reason"] == "is lost: Xid 79: fallen off the bus"


def test_a_slot_is_as_fast_as_its_slowest_device():
    assert speed_of(State(), "m/r0") == 1.0


def test_a_token_is_of_one_incarnation_only():
    token = agent_token("secret", "i1")
    assert is_agent("secret", "i1", token)
    assert not is_agent("secret", "i2", token)
    assert not is_agent("other", "i1", token)
    assert not is_agent("secret", "i1", "")
    assert is_agent("", "i1", "")


async def test_a_report_with_a_foreign_token_changes_nothing():
    world = World("n1", "n2")
    world.controller._agent_secret = "secret"
    mine = a_report("n1")
    good = agent_token("secret", mine.incarnation)
    await world.controller.tick()
    await world.controller.report(mine, good)
    before = world.controller.state
    forged = replace(a_report("n2"), devices=())
    with pytest.raises(ControlError, match="does not come from the agent"):
        await world.controller.report(forged, good)
    with pytest.raises(ControlError, match="does not come from the agent"):
        await world.controller.renew(forged.renewal(), good)
    assert world.controller.state == before
    assert await world.controller.renew(mine.renewal(), good) is not None


async def test_a_controller_that_does_not_know_a_node_asks_for_the_whole_report():
    world = World("n1")
    await world.controller.tick()
    assert await world.controller.renew(a_report("n1").renewal()) is None


def test_engines_that_nodes_tell_of_are_part_of_the_inventory():
    theirs = EngineFacts(name="theirs", drives=frozenset({"generic/cpu"}), dtypes=("fp32",))
    state = seen(report("n1"), report("n2", engine_facts=(theirs,)))
    assert inventory(state).engines == (theirs,)
    faster = replace(theirs, start_s=3.0)
    changed = seen(report("n2", engine_facts=(faster,)), state=state)
    assert inventory(changed).engines == (faster,)
    assert changed.generation == state.generation + 1
