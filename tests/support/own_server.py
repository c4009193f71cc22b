"""One of our own servers without Ray, as somebody else's endpoint: a gateway and one replica in this process.

    python own_server.py ENGINE SOURCE MODEL

Prints its port once it is ready; serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import structlog
from support.dataplane import SECRET, a_slot, an_entry

from actors.engine_config import Place
from actors.plugins import engine_facts, make_engine
from actors.replica import Replica, ReplicaConfig
from actors.sources import form_path, path_of
from actors.text import TextModel
from orchestrator.gateway.app import Gateway, GatewayConfig
from orchestrator.gateway.serving import serving
from orchestrator.gateway.upstream import ReplicaUpstreams
from orchestrator.http_server import bind
from orchestrator.routing.registry import StaticRegistry
from orchestrator.routing.replicas import ModelEntry, RegistryTable
from placement.units import GIB


async def serve(engine: str, source: str, model: str) -> None:
    facts = engine_facts(engine)
    path = form_path(source, facts.formats if facts else frozenset(), None)
    slot = a_slot(
        f"{model}/r0", model=model, engine=engine, arithmetic="exact", window=1024, kv_bytes=GIB
    )
    slot = replace(slot, pace=replace(slot.pace, prefill_tokens_per_s=50.0, fixed_s=0.2))
    config = ReplicaConfig(
        slot=slot, incarnation="one", secret=SECRET, place=Place(model_path=str(path))
    )
    replica = Replica(
        config, make_engine(engine), lambda: TextModel.load(path_of(source)), lambda: None
    )
    port = await replica.start()
    try:
        while replica.status().state == "loading":  # noqa: ASYNC110 - told in a file elsewhere
            await asyncio.sleep(0.1)
        replica.check()
        entry = an_entry(
            slot, port, incarnation="one", window=1024, capabilities=replica.status().capabilities
        )
        entered = ModelEntry(id=model, created=1, emulated=False, window=1024)
        table = RegistryTable(version=1, models=(entered,), replicas=(entry,))
        upstreams = ReplicaUpstreams(StaticRegistry(table), secret=SECRET, gateway="g0")
        listener = bind("127.0.0.1", 0, reuse_port=False)
        gateway = Gateway(GatewayConfig(version="1"), upstreams)
        async with serving(gateway, upstreams, listener, drain_s=1):
            await upstreams.tried()
            print(listener.getsockname()[1], flush=True)
            await asyncio.to_thread(sys.stdin.read)
    finally:
        await replica.close()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(serve(*sys.argv[1:]))
