"""The controller over fakes of its ports: it starts what is planned, replaces what is lost, and leaves the rest alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from support.control_plane import World, a_report, an_entry

from orchestrator.controller import Controller
from orchestrator.state import inventory
from placement.plan import Infeasible, Plan


async def test_it_starts_an_agent_once_on_every_node() -> None:
    world = World("n1", "n2")
    await world.controller.tick()
    await world.controller.tick()
    assert sorted(world.cluster.agents) == ["ray-n1", "ray-n2"]


async def test_an_accepted_app_is_planned_started_and_left_alone() -> None:
    world = World("n1")
    await world.settle()
    outcome = await world.apply(replicas=2)
    assert isinstance(outcome, Plan)
    await world.settle()
    assert sorted(world.deployments.running) == ["tiny/r0", "tiny/r1"]
    calls = list(world.deployments.calls)
    await world.settle()
    assert world.deployments.calls == calls


async def test_an_infeasible_app_changes_nothing() -> None:
    world = World("n1")
    await world.settle()
    await world.apply(replicas=1)
    await world.settle()
    outcome = await world.apply(replicas=50)
    assert isinstance(outcome, Infeasible)
    await world.settle()
    assert sorted(world.deployments.running) == ["tiny/r0"]


async def test_scaling_down_stops_only_what_is_too_much() -> None:
    world = World("n1", "n2", "n3", cores=1)
    await world.settle()
    await world.apply(replicas=3)
    await world.settle()
    world.deployments.calls.clear()
    await world.apply(replicas=2)
    await world.settle()
    assert len(world.deployments.running) == 2
    assert [kind for kind, _ in world.deployments.calls] == ["stop"]


async def test_a_lost_node_is_planned_around() -> None:
    world = World("n1", "n2")
    await world.settle()
    await world.apply(replicas=2)
    await world.settle()
    world.cluster.living.discard("ray-n1")
    world.nodes.remove("n1")
    await world.settle(ticks=8)
    nodes = {spec.nodes[0] for spec in world.deployments.running.values()}
    assert nodes == {"n2"}
    assert len(world.deployments.running) == 2


async def test_a_silent_node_is_lost_after_its_lease() -> None:
    world = World("n1", "n2")
    await world.settle()
    generation = world.controller.state.generation
    world.nodes.remove("n2")
    await world.settle(ticks=12)
    assert set(world.controller.state.nodes) == {"n1"}
    assert world.controller.state.generation > generation


async def test_a_frozen_controller_expires_no_lease() -> None:
    world = World("n1")
    await world.settle()
    await world.apply(replicas=1)
    await world.settle()
    world.clock.seconds += 60.0
    await world.controller.tick()
    assert set(world.controller.state.nodes) == {"n1"}
    assert set(world.controller.state.replicas) == {"tiny/r0"}


async def test_a_failed_replica_is_tried_again_later_and_reported() -> None:
    world = World("n1")
    await world.settle()
    await world.apply(replicas=1)
    await world.settle(ticks=1)
    await world.controller.register(an_entry("tiny/r0", state="failed"))
    assert world.controller.table().models[0].problem.startswith("tiny/r0")
    await world.controller.tick()
    assert "tiny/r0" not in world.deployments.running
    for _ in range(8):
        await world.controller.report(a_report("n1"))
        await world.controller.tick()
        world.clock.seconds += 0.5
    assert "tiny/r0" in world.deployments.running


async def test_a_restarted_controller_goes_on_with_the_journal_and_restarts_nothing() -> None:
    first = World("n1")
    await first.settle()
    await first.apply(replicas=2)
    await first.settle()
    second = World("n1", journal=first.journal)
    second.deployments = first.deployments
    second.controller = Controller(
        cluster=second.cluster,
        deployments=first.deployments,
        journal=first.journal,
        clock=second.clock,
    )
    first.deployments.calls.clear()
    second.controller.restore()
    await second.controller.tick()
    await second.settle()
    assert first.deployments.calls == []
    assert second.controller.state.revision == 1


async def test_watch_returns_at_once_when_the_version_differs_and_on_a_change_otherwise() -> None:
    world = World("n1")
    table = await world.controller.watch(-1)
    waiting = asyncio.create_task(world.controller.watch(table.version))
    await world.controller.register(an_entry("tiny/r0"))
    changed = await asyncio.wait_for(waiting, 5.0)
    assert [r.slot for r in changed.replicas] == ["tiny/r0"]


async def test_goodbye_of_an_older_incarnation_does_not_remove_the_newer_one() -> None:
    world = World("n1")
    await world.controller.register(an_entry("tiny/r0", incarnation="new"))
    await world.controller.deregister("tiny/r0", "old")
    assert [r.incarnation for r in world.controller.table().replicas] == ["new"]


async def test_nodes_are_told_which_sources_to_look_for() -> None:
    world = World("n1")
    await world.settle()
    await world.apply(replicas=1)
    assert await world.controller.report(a_report("n1")) == ("package://tiny",)


async def test_a_node_that_runs_other_code_is_cordoned_with_the_reason() -> None:
    world = World("n1")
    world.controller.state = replace(world.controller.state, code="other")
    await world.settle()
    outcome = await world.apply(replicas=1)
    assert isinstance(outcome, Infeasible)
    assert inventory(world.controller.state).nodes[0].cordon_reason


async def test_two_living_nodes_of_one_name_are_told_apart() -> None:
    world = World("n1", "n2")
    await world.settle()
    world.cluster.living.add("ray-twin")
    await world.controller.tick()
    await world.controller.report(a_report("n1", incarnation="ray-twin"))
    state = world.controller.state
    assert state.nodes["n1"].report.incarnation == "ray-n1"
    assert "n1" in state.refused["ray-twin"]
    assert isinstance(await world.apply(replicas=1), Plan)
