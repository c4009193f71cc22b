"""Why tokens do not pass through Ray Serve's handles and proxy: a no-op engine behind both, beside our gateway and replica.

The Serve application is the usual one: an ingress that streams from a `DeploymentHandle`, behind Serve's HTTP proxy, with
default settings but for the number of requests at once. It does less than ours: no checks, no usage, no text.

usage: python -m benchmarks.ray_handles [--seconds S] [--rounds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import uvloop
from ray import serve
from starlette.requests import Request
from starlette.responses import StreamingResponse

from benchmarks.serving import TOKENS, body, cell, variants
from orchestrator.sockets import free_port

STREAMS = (1, 8, 64)
PACE_MS = 20
PACED_TOKENS = 50
AT_ONCE = 256
EVENT = (
    'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":0,"model":"noop",'
    '"system_fingerprint":"noop-CPU","choices":[{"index":0,"delta":{"content":" token"},'
    '"logprobs":null,"finish_reason":null}]}\n\n'
)


@serve.deployment(max_ongoing_requests=AT_ONCE, ray_actor_options={"num_cpus": 0})
class Engine:
    """The no-op engine as a deployment."""

    async def generate(self, tokens: int, pace_ms: int) -> AsyncIterator[str]:
        """One item per token."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(tokens):
            due += pace_ms / 1000
            await asyncio.sleep(due - loop.time() if pace_ms else 0)
            yield " token"


@serve.deployment(max_ongoing_requests=AT_ONCE, ray_actor_options={"num_cpus": 0})
class Ingress:
    """One server-sent event per item of the handle."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine.options(stream=True)

    async def __call__(self, request: Request) -> StreamingResponse:
        """Streams an answer."""
        asked = await request.json()
        tokens = self._engine.generate.remote(asked["max_tokens"], asked["seed"])
        return StreamingResponse(_events(tokens), media_type="text/event-stream")


async def _events(tokens: Any) -> AsyncIterator[str]:
    yield EVENT
    async for _ in tokens:
        yield EVENT
    yield EVENT + "data: [DONE]\n\n"


@contextmanager
def served_by_handles() -> Generator[int]:
    """The port of Serve's proxy on a Ray of our own, which ends with the block."""
    # Otherwise Ray 2.60 writes a token into the user's home folder, which all later clusters of the user would find.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 << 20,
            _temp_dir=folder,
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(Ingress.bind(Engine.bind()), name="handles", route_prefix="/")
            yield port
        finally:
            serve.shutdown()
            ray.shutdown()


async def measure(seconds: float, rounds: int, port: int) -> dict[str, Any]:
    """Both ways in turn."""
    async with variants() as all_ports:
        ports = {"ours": all_ports["split"], "handles": port}
        cells = {
            f"tokens_{n}": await cell(ports, n, body(TOKENS), seconds, rounds) for n in STREAMS
        }
        for n in (1, 64):
            cells[f"requests_{n}"] = await cell(ports, n, body(1), seconds, rounds)
        paced = body(PACED_TOKENS, PACE_MS)
        cells["paced_64x50"] = await cell(ports, 64, paced, seconds, max(1, rounds // 2))
    return cells


def result_of(cells: dict[str, Any]) -> dict[str, Any]:
    """The handles' share of what our way delivers."""
    ratios = {
        name: round(rows["handles"]["requests_per_s"] / rows["ours"]["requests_per_s"], 4)
        for name, rows in cells.items()
    }
    ttft = {
        name: {way: round(row["ttft_p50_ms"], 2) for way, row in rows.items()}
        for name, rows in cells.items()
    }
    return {
        "benchmark": "handles",
        "handles_to_ours": ratios,
        "ttft_p50_ms": ttft,
        "cells": cells,
        "cpus": os.cpu_count(),
    }


def main() -> int:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with served_by_handles() as port:
        cells = uvloop.run(measure(given.seconds, given.rounds, port))
    text = json.dumps(result_of(cells), indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
