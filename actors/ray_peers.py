"""DOOR to Ray: the other nodes of a replica whose engine is a group of processes over nodes, in the slot's placement group.

A peer's actor dies with the replica that made it, and its process with the actor; when one process ends, the replica is done for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import structlog
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from .engine import EngineConfig
from .errors import LoadFailed
from .logs import configure, log_path
from .server.node_group import Peer
from .server.peer import PeerOrder, PeerProcess
from .server.spec import Server
from .slot import SlotSpec
from .weights import model_path

log = structlog.get_logger()

JOIN_TIMEOUT_S = 60.0
START_TIMEOUT_S = 60.0


class _PeerHost:
    """On a peer's node: hosts one process of the group."""

    def __init__(self, slot: SlotSpec, number: int) -> None:
        self._name = f"{slot.id}-peer{number}"
        configure(log_path(self._name))
        self._slot = slot
        self._process: PeerProcess | None = None

    @ray.method
    async def address(self) -> str:
        """Of this node."""
        return ray.util.get_node_ip_address()

    @ray.method
    async def start(self, order: PeerOrder) -> None:
        """Starts the process with this node's copy of the model."""
        config = replace(
            order.config,
            model_path=model_path(self._slot),
            log_path=str(log_path(f"{self._name}-engine")),
            cores=(),
        )
        self._process = PeerProcess(replace(order, config=config))

    @ray.method
    async def ended(self) -> str:
        """Waits for the end of the process; says why it ended."""
        if self._process is None:
            return "it was not started"
        return await self._process.ended()

    @ray.method
    async def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            await self._process.end()


PeerHost = ray.remote(_PeerHost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The nodes of a slot whose stages lie on several, joined and not started.

    Attributes:
        hosts: address of each stage's node.
        meeting_port: of the first node, where the processes find each other.
        peers: actor on each other node, by address.
    """

    server: Server
    hosts: tuple[str, ...]
    meeting_port: int
    peers: dict[str, Any]

    async def start(self, config: EngineConfig) -> None:
        """Starts what the server wants on the other nodes.

        Raises:
            LoadFailed: a node cannot start its part.
        """
        server = self.server
        wanted: Sequence[Peer] = getattr(server, "peers", lambda _: ())(config)
        orders = [
            PeerOrder(
                engine=server.name,
                environment=server.environment,
                peer=peer,
                config=config,
                endings=server.endings,
            )
            for peer in wanted
        ]
        calls = [self.peers[o.peer.host].start.remote(o) for o in orders]
        try:
            await asyncio.wait_for(asyncio.gather(*calls), START_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise LoadFailed(
                f"a node of the pipeline could not start its part: {_why(error)}",
                hint="shardyard doctor    on the nodes of the pipeline",
            ) from None

    async def ended(self) -> str:
        """Waits until one of the processes, or its node, is gone; says why."""
        calls = [asyncio.ensure_future(_ended(peer, host)) for host, peer in self.peers.items()]
        try:
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for call in calls:
                call.cancel()

    async def stop(self) -> None:
        """Ends every process; the actors go with this one."""
        calls = [peer.stop.remote() for peer in self.peers.values()]
        try:
            await asyncio.wait_for(asyncio.gather(*calls), START_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            log.warning("peer.stop_failed", reason=_why(error))
        for peer in self.peers.values():
            ray.kill(peer)


async def join_nodes(slot: SlotSpec, server: Server, own_host: str) -> Group:
    """Reaches the other nodes of a slot through its placement group.

    Raises:
        LoadFailed: one of them does not answer in time.
    """
    group = ray.util.get_current_placement_group()
    if group is None:
        raise LoadFailed(f"{slot.id} has stages on several nodes and no placement group")
    peers: dict[str, Any] = {}
    hosts: dict[str, str] = {slot.nodes[0]: own_host}
    for bundle, node in enumerate(slot.nodes):
        if node in hosts:
            continue
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
        peer = PeerHost.options(
            num_cpus=0, resources=dict(slot.claims[bundle]), scheduling_strategy=strategy
        ).remote(slot, bundle)
        try:
            hosts[node] = await asyncio.wait_for(peer.address.remote(), JOIN_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise LoadFailed(
                f"{node} does not take its part of {slot.id}: {_why(error)}",
                hint="shardyard devices",
            ) from None
        peers[hosts[node]] = peer
    addresses = tuple(hosts[node] for node in slot.nodes)
    port = _free_port(own_host)
    return Group(server=server, hosts=addresses, meeting_port=port, peers=peers)


async def _ended(peer: Any, host: str) -> str:
    try:
        return await peer.ended.remote()
    except ray.exceptions.RayError as error:
        return f"its part on {host} is gone: {_why(error)}"


def _why(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:300]


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])
