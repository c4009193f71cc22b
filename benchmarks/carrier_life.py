"""Around the streams: a supervised start of a server beside a bare one, and what an abort takes.

Benchmarks only.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from contextlib import aclosing
from typing import Any, cast

from actors.engine import Engine, EngineConfig
from actors.openai.body import request_body
from actors.server.launch import Launch, launch
from actors.server.metrics import samples
from benchmarks.carrier_cases import (
    a_config,
    a_request,
    a_server,
    a_text,
    an_engine,
    door_of,
    python_of,
)
from benchmarks.carrier_streams import http_request
from benchmarks.engine import spread
from benchmarks.load import Connection

LOOK_S = 0.001
START_DEADLINE_S = 280.0
ABORT_DEADLINE_S = 60.0
RUNNING = (8, 32)
"""Streams of which one is aborted."""
ENDLESS = 600
"""Tokens of a stream that is not to end by itself; an engine that reserves memory for them has it for all streams."""


# -- start ----------------------------------------------------------------------------------------------------------


async def first_token(door: str, request: bytes) -> None:
    """Asks until somebody is there, and returns with the first token."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            _, connection = await loop.create_unix_connection(Connection, door)
        except OSError:
            await asyncio.sleep(LOOK_S)
            continue
        status = await connection.ask(request)
        connection.close()
        if status == 200:
            return
        await asyncio.sleep(LOOK_S)


def _request(name: str, config: EngineConfig, served: str) -> bytes:
    server = a_server(name)
    assert server is not None
    asked = a_request(a_text(), 0, 1)
    path, body = request_body(asked, server.dialect, served, window=config.window)
    return http_request(f"/v1{path}", body)


async def bare_start(name: str, config: EngineConfig) -> float:
    """Seconds from the start of a server's process to its first token, with nobody around it."""
    server = a_server(name)
    assert server is not None
    python, variables = python_of(server)
    planned: Launch = launch(server, config, python, variables)
    request = _request(name, config, planned.served)
    began = time.perf_counter()
    process = _spawned(planned)
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            await first_token(planned.socket, request)
        return time.perf_counter() - began
    finally:
        process.terminate()
        await asyncio.to_thread(_reap, process)
        shutil.rmtree(planned.folder, ignore_errors=True)


def _spawned(planned: Launch) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        planned.argv,
        env=dict(planned.environment),
        cwd=planned.folder / "w",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()


async def our_start(name: str, config: EngineConfig) -> tuple[float, float]:
    """The same through `ServerEngine`, which asks for a token of its own first; and the seconds of its end."""
    engine = an_engine(name)
    request = a_request(a_text(), 0, 1)
    began = time.perf_counter()
    await engine.load(config, lambda _: None)
    async with aclosing(cast("Any", engine.generate(request))) as chunks:
        async for _ in chunks:
            break
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    await engine.close()
    return seconds, time.perf_counter() - began


async def starts(name: str, path: str, rounds: int) -> dict[str, Any]:
    """Both in turn, in seconds; of more than one round the first is not counted."""
    config = a_config(name, path, a_text())
    rows = [(await bare_start(name, config), *await our_start(name, config)) for _ in range(rounds)]
    bare, ours, ends = zip(*rows[min(1, rounds - 1) :], strict=True)
    return {
        "bare_s": spread(bare),
        "supervised_s": spread(ours),
        "added_s": spread(b - a for a, b in zip(bare, ours, strict=True)),
        "end_s": spread(ends),
    }


# -- abort ----------------------------------------------------------------------------------------------------------


class _Watched:
    """How many sequences an engine runs, by its own word: a worker's frames, a server's metrics page."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        server = a_server(engine.name)
        self._metric = server.metrics["running"] if server else ""

    async def running(self) -> int:
        if not self._metric:
            await asyncio.sleep(LOOK_S)
            return (await self._engine.stats()).running
        return int(sum(samples(await self._page(), (self._metric,)).get(self._metric, [0.0])))

    async def _page(self) -> str:
        """Straight from the socket: our own figure is up to a second old, and counts only what we still hold."""
        if self._connection is None:
            door, _ = door_of(self._engine.processes())
            self._connection = await asyncio.open_unix_connection(door, limit=1 << 22)
        reader, writer = self._connection
        writer.write(http_request("/metrics", None))
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        ]
        return (await reader.readexactly(int(lengths[0].split(b":")[1]))).decode()

    def close(self) -> None:
        if self._connection is not None:
            self._connection[1].close()


async def aborts(engine: Engine, rounds: int) -> dict[str, Any]:
    """Milliseconds from the end of one of 8 or 32 iterators until the engine itself counts one sequence less."""
    watched = _Watched(engine)
    try:
        return {str(n): await _aborts(engine, watched, n, rounds) for n in RUNNING}
    finally:
        watched.close()


async def _aborts(engine: Engine, watched: _Watched, running: int, rounds: int) -> dict[str, float]:
    text = a_text()
    requests = [a_request(text, n, ENDLESS) for n in range(running)]
    taken = []
    for _ in range(rounds):
        taken.append(await _abort(engine, watched, requests))
        await _until(watched, 0)
    return spread(1e3 * s for s in taken)


async def _abort(engine: Engine, watched: _Watched, requests: list[Any]) -> float:
    let_go = asyncio.Event()
    closed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    tasks = [
        asyncio.create_task(_held(engine, request, let_go if n == 0 else asyncio.Event(), closed))
        for n, request in enumerate(requests)
    ]
    try:
        await _until(watched, len(requests))
        let_go.set()
        at = await closed
        await _until(watched, len(requests) - 1)
        return time.perf_counter() - at
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _held(
    engine: Engine, request: Any, let_go: asyncio.Event, closed: asyncio.Future[float]
) -> None:
    """Reads a stream until it is let go."""
    async with aclosing(cast("Any", engine.generate(request))) as chunks:
        async for _ in chunks:
            if let_go.is_set():
                closed.set_result(time.perf_counter())
                return
    raise RuntimeError("the stream ended by itself")


async def _until(watched: _Watched, running: int) -> None:
    async with asyncio.timeout(ABORT_DEADLINE_S):
        while await watched.running() != running:
            pass
