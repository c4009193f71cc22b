"""Run inside a lab by tests/emulated/test_ray_peers.py: a replica's actor with stages on two nodes, and a made-up server.

    python peers_in_ray.py ADDRESS NODE OTHER

Prints one line of JSON: what was joined, which processes ran where, and how the group ended when one of them was killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.engine import EngineConfig, Pace, StagePlace
from actors.process_tree import everybody
from actors.ray_peers import join_nodes
from actors.server.node_group import Peer, group_nodes
from actors.slot import SlotSpec, StageSpec
from placement.remote import UNKNOWN_FACTS

PACE = Pace(fixed_s=0.0, per_sequence_s=0.0, prefill_tokens_per_s=1.0, load_s=0.0)


class TwoNodeServer:
    """As much of a `Server` as a group needs."""

    name: ClassVar[str] = "two-nodes"
    environment: ClassVar[str] = ""
    endings: ClassVar[tuple[Any, ...]] = ()

    def peers(self, config: EngineConfig) -> tuple[Peer, ...]:
        code = "import os, time; print(os.environ['MEETS']); time.sleep(600)"
        return tuple(
            Peer(
                host=node.host,
                handles=node.handles,
                argv=("{python}", "-c", code, "peer-of-a-test"),
                variables={"MEETS": f"{config.stages[0].host}:{config.meeting_port}"},
            )
            for node in group_nodes(config.stages, 1)[1:]
        )


def a_slot(nodes: tuple[str, str], claims: list[dict[str, float]]) -> SlotSpec:
    stages = tuple(
        StageSpec(node=node, handles=("0",), layers=(k, k + 1)) for k, node in enumerate(nodes)
    )
    return SlotSpec(
        id="m/r0", model="m", source="file:///nowhere", tokenizer="file:///nowhere", engine="two-nodes",
        device_class="X", arithmetic="fast", nodes=nodes, claims=tuple(tuple(c.items()) for c in claims),
        handles=("0",), family="", threads=0, window=8, concurrency=1, queue=1, kv_bytes=0, emulated=True,
        load_s=0.0, pace=PACE, stages=stages,
    )  # fmt: skip


class Replica:
    """Stands for the Serve replica of the slot."""

    async def run(self, nodes: tuple[str, str], claims: list[dict[str, float]]) -> dict[str, Any]:
        slot = a_slot(nodes, claims)
        # The nodes of a lab share an address, which real ones do not: the second gets a name of its own.
        group = await join_nodes(slot, TwoNodeServer(), "127.0.0.9")
        config = EngineConfig(
            model_path="", facts=replace(UNKNOWN_FACTS, layers=2), device_class="X", arithmetic="fast",
            window=8, max_sequences=1, kv_bytes=0, threads=0, eos_ids=(), owner="peers-test",
            meeting_port=group.meeting_port,
            stages=tuple(
                StagePlace(host=host, handles=s.handles, layers=s.layers)
                for host, s in zip(group.hosts, slot.stages, strict=True)
            ),
        )  # fmt: skip
        await group.start(config)
        running = await _until(lambda: _peers())
        os.kill(running[0], signal.SIGKILL)
        why = await asyncio.wait_for(group.ended(), 20)
        await group.stop()
        await _until(lambda: not _peers())
        return {
            "hosts": list(group.hosts),
            "port": group.meeting_port,
            "running": len(running),
            "why": why,
        }


def _peers() -> list[int]:
    found = []
    for pid in everybody():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"peer-of-a-test" in words and b"-c" in words:
            found.append(pid)
    return found


async def _until(condition: Any) -> Any:
    async with asyncio.timeout(30):
        while not (found := condition()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    return found


def _free_resource(resources: dict[str, float]) -> str:
    """Something that only that node has."""
    return next(
        name for name in resources if name.startswith("node:") and name != "node:__internal_head__"
    )


def main(address: str, node: str, other: str) -> None:
    ray.init(address=address, namespace="shardyard", log_to_driver=False, configure_logging=False)
    rows = {row["Labels"].get("shardyard.io/node"): row["Resources"] for row in ray.nodes()}
    claims = [{_free_resource(rows[name]): 0.001} for name in (node, other)]
    group = placement_group(claims, strategy="PACK")
    ray.get(group.ready(), timeout=30)
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    actor = ray.remote(Replica).options(num_cpus=0, scheduling_strategy=strategy).remote()
    print(json.dumps(ray.get(actor.run.remote((node, other), claims), timeout=90)))
    ray.kill(actor)
    ray.util.remove_placement_group(group)


if __name__ == "__main__":
    main(*sys.argv[1:])
