"""A controller that was restarted knows less than the gateways at first, and does not tell them so."""

from __future__ import annotations

import asyncio

from support.control_plane import World, an_entry

from orchestrator.controller import REPLICA_LEASE_S
from orchestrator.routing.pick import Refusal, pick
from orchestrator.routing.replicas import RegistryTable

SLOTS = ("tiny/r0", "tiny/r1")


async def reborn() -> World:
    """A controller that has just taken over the journal of one with two replicas."""
    world = World("n1")
    await world.settle()
    await world.apply(replicas=2)
    await world.settle()
    again = World("n1", journal=world.journal)
    again.controller.restore()
    return again


async def test_gateways_keep_their_table_until_every_replica_has_registered() -> None:
    world = await reborn()
    watching = asyncio.create_task(world.controller.watch(7))
    await world.controller.register(an_entry(SLOTS[0]))
    done, _ = await asyncio.wait({watching}, timeout=0.1)
    assert not done
    await world.controller.register(an_entry(SLOTS[1]))
    table = await watching
    assert [replica.slot for replica in table.replicas] == list(SLOTS)


async def test_a_replica_that_died_meanwhile_is_waited_for_no_longer_than_its_lease() -> None:
    world = await reborn()
    await world.controller.register(an_entry(SLOTS[0]))
    world.clock.seconds += REPLICA_LEASE_S
    table = await world.controller.watch(7)
    assert [replica.slot for replica in table.replicas] == [SLOTS[0]]


async def test_a_version_of_an_earlier_controller_never_comes_again() -> None:
    first = World("n1")
    later = World("n1")
    later.clock.seconds += 2
    later.controller = type(first.controller)(
        cluster=later.cluster,
        deployments=later.deployments,
        journal=later.journal,
        clock=later.clock,
    )
    assert later.controller.table().version > first.controller.table().version + 1000


def test_a_gateway_without_a_table_denies_no_model() -> None:
    refusal = pick(RegistryTable(version=-1), "tiny", {})
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "no_healthy_replica"
