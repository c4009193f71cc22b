"""What the data plane costs: a no-op engine behind gateway and replica (two processes), beside the same ASGI
application with that engine inside (one process), beside a raw ASGI function that sends the same events.

All variants run in turn within one run, client included, on the same cores; only ratios mean anything.

usage: python -m benchmarks.serving [--seconds S] [--rounds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import uvloop

from actors.replica import Replica, ReplicaConfig
from benchmarks.load import Tally, chat_request, connect, drive
from benchmarks.noop import MODEL, PIECE, SECRET, InProcess, NoopEngine, NoopText, a_slot, a_table
from orchestrator.gateway.app import Gateway, GatewayConfig
from orchestrator.gateway.serving import serving
from orchestrator.gateway.upstream import ReplicaUpstreams
from orchestrator.http_server import HttpServer, bind
from orchestrator.routing.registry import StaticRegistry

TOKENS = 200
PACE_MS = 20
PACED_TOKENS = 50
VARIANTS = ("split", "single", "raw")
TARGETS = {
    "tokens_1": 0.6,
    "tokens_8": 0.9,
    "tokens_64": 0.9,
    "requests_1": 0.35,
    "requests_64": 0.65,
}
START_TIMEOUT_S = 30.0


# -- the processes --------------------------------------------------------------------------------------------------


async def _replica() -> Replica:
    ready = asyncio.Event()
    config = ReplicaConfig(slot=a_slot(), incarnation="noop", secret=SECRET)
    replica = Replica(config, NoopEngine(), NoopText, ready.set)
    port = await replica.start()
    await asyncio.wait_for(ready.wait(), START_TIMEOUT_S)
    _announce(port)
    return replica


async def run_replica(_port: int) -> None:
    """The engine's process."""
    replica = await _replica()
    await _until_told()
    await replica.close()


async def run_split(replica_port: int) -> None:
    """The gateway's process."""
    upstreams = ReplicaUpstreams(
        StaticRegistry(a_table(replica_port)), secret=SECRET, gateway="benchmark"
    )
    listener = bind("127.0.0.1", 0, reuse_port=False)
    async with serving(Gateway(GatewayConfig(), upstreams), upstreams, listener, drain_s=1):
        _announce(listener.getsockname()[1])
        await _until_told()


async def run_single(_port: int) -> None:
    """Application and engine in one process."""
    config = ReplicaConfig(slot=a_slot(), incarnation="noop", secret=SECRET)
    ready = asyncio.Event()
    replica = Replica(config, NoopEngine(), NoopText, ready.set)
    await replica.start()
    await asyncio.wait_for(ready.wait(), START_TIMEOUT_S)
    await _serve(Gateway(GatewayConfig(), InProcess(replica)).app)
    await replica.close()


async def run_raw(_port: int) -> None:
    """A plain function that reads the body and sends as many events."""
    await _serve(_raw_app)


async def _serve(app: Any) -> None:
    listener = bind("127.0.0.1", 0, reuse_port=False)
    server = HttpServer(app, [listener])
    await server.start()
    _announce(listener.getsockname()[1])
    await _until_told()
    await server.stop(1)


async def _raw_app(scope: Any, receive: Any, send: Any) -> None:
    body = json.loads((await receive())["body"])
    pace_s = body.get("seed", 0) / 1000
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    choice = {"index": 0, "delta": {"content": PIECE}, "logprobs": None, "finish_reason": None}
    chunk = {
        "id": "chatcmpl-" + "0" * 32,
        "object": "chat.completion.chunk",
        "created": 0,
        "model": MODEL,
        "system_fingerprint": "noop-CPU",
        "choices": [choice],
    }
    event = b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
    loop = asyncio.get_running_loop()
    due = loop.time()
    for number in range(body["max_tokens"]):
        due += pace_s
        await asyncio.sleep(due - loop.time() if pace_s else 0)
        data = event * 2 if number == 0 else event
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": event + b"data: [DONE]\n\n"})


def _announce(port: int) -> None:
    print(port, flush=True)


async def _until_told() -> None:
    """Until our parent ends us, or closes the pipe by dying."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    loop.add_reader(sys.stdin.fileno(), told.set)
    await told.wait()


@asynccontextmanager
async def variants() -> Any:
    """Ports of the running variants by name."""
    children: list[subprocess.Popen[str]] = []

    def start(role: str, port: int = 0) -> int:
        argv = [sys.executable, "-m", "benchmarks.serving", "--role", role, "--port", str(port)]
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout is not None
        return int(child.stdout.readline())

    try:
        replica_port = start("replica")
        yield {role: start(role, replica_port) for role in VARIANTS}
    finally:
        for child in reversed(children):
            child.terminate()
        for child in children:
            child.wait(timeout=START_TIMEOUT_S)


# -- the measurement ------------------------------------------------------------------------------------------------


def body(tokens: int, pace_ms: int = 0) -> dict[str, Any]:
    """A request for `tokens` tokens."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": tokens,
        "seed": pace_ms,
    }


async def cell(
    ports: dict[str, int], streams: int, request: dict[str, Any], seconds: float, rounds: int
) -> dict[str, Any]:
    """One kind of load on every variant in turn, `rounds` times; the median round of each."""
    clients = {name: await connect(port, streams) for name, port in ports.items()}
    tallies: dict[str, list[Tally]] = {name: [] for name in ports}
    for turn in range(rounds + 1):
        for name, port in ports.items():
            tally = await drive(clients[name], chat_request(port, request), seconds)
            if turn > 0:
                tallies[name].append(tally)
    for connections in clients.values():
        for connection in connections:
            connection.close()
    return {name: _summary(runs, request["max_tokens"]) for name, runs in tallies.items()}


def _summary(runs: list[Tally], tokens: int) -> dict[str, Any]:
    reports = [run.report() for run in runs]
    summary: dict[str, Any] = {
        key: statistics.median(report[key] for report in reports) for key in reports[0]
    }
    summary["failed"] = sum(run.failed for run in runs)
    requests = sum(run.requests for run in runs)
    summary["events_per_token"] = (sum(run.events for run in runs) / requests - 3) / tokens
    summary["tokens_per_s"] = summary["requests_per_s"] * tokens
    return summary


async def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """Every cell, and the ratios that the targets speak of."""
    async with variants() as ports:
        cells = {
            f"tokens_{n}": await cell(ports, n, body(TOKENS), seconds, rounds) for n in (1, 8, 64)
        }
        for n in (1, 64):
            cells[f"requests_{n}"] = await cell(ports, n, body(1), seconds, rounds)
        paced = body(PACED_TOKENS, PACE_MS)
        cells["paced_64x50"] = await cell(ports, 64, paced, seconds, max(1, rounds // 2))
    return {"cells": cells, "ratios": _ratios(cells), "targets": TARGETS, "cpus": os.cpu_count()}


def _ratios(cells: dict[str, Any]) -> dict[str, Any]:
    ratios: dict[str, Any] = {}
    for name in TARGETS:
        of = "tokens_per_s" if name.startswith("tokens") else "requests_per_s"
        rows = cells[name]
        ratios[name] = round(rows["split"][of] / rows["single"][of], 3)
        ratios[f"{name}_single_to_raw"] = round(rows["single"][of] / rows["raw"][of], 3)
    paced = cells["paced_64x50"]
    ratios["paced_delivered"] = round(
        paced["split"]["tokens_per_s"] / paced["single"]["tokens_per_s"], 4
    )
    ratios["paced_added_ttft_ms"] = round(
        paced["split"]["ttft_p50_ms"] - paced["single"]["ttft_p50_ms"], 3
    )
    return ratios


def main() -> None:
    """Runs one role, or the measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--role", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(30),
    )
    if arguments.role:
        roles = {"replica": run_replica, "split": run_split, "single": run_single, "raw": run_raw}
        uvloop.run(roles[arguments.role](arguments.port))
        return
    text = json.dumps(uvloop.run(measure(arguments.seconds, arguments.rounds)), indent=2)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
