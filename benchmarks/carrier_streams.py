"""Streams of tokens with nothing around an engine, and through a replica: what the carriers and the replica cost.

Benchmarks only. Beside a worker's engine stands the same `Stepper` in a plain loop; beside a server stands a raw client of its
socket, which reads as little as one can. Ours is a `Replica` in a process of its own, asked with frames over TCP as a gateway
asks it, without a gateway.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from actors.openai.body import request_body
from actors.plugins import ENGINES_GROUP, ENGINES_PACKAGE, load_plugins
from actors.wire import End, Hello, Open, Tokens, Welcome
from actors.worker.engine import HUGE_PAGES, QUIET
from benchmarks.carrier_cases import a_config, a_request, a_server, a_text, door_of
from benchmarks.children import Child, say, start
from benchmarks.engine import SECRET, STREAMS, WINDOW, messages, spread
from benchmarks.load import Connection
from orchestrator.gateway.link import Link, Stream

SILENCE_S = 120.0
REPEATS = {1: 4, 8: 2, 32: 1}
"""Turns in a round: few streams take little time and vary most."""
HOSTED = HUGE_PAGES | QUIET | {"OMP_NUM_THREADS": "1"}
"""Variables of a worker's process, for the bare one beside it."""


# -- bare -----------------------------------------------------------------------------------------------------------


class Bare:
    """A `Stepper` in this process."""

    def __init__(self, name: str, path: str) -> None:
        self._text = a_text()
        self._stepper = load_plugins(ENGINES_PACKAGE, ENGINES_GROUP).found[name]()
        self._stepper.load(a_config(name, path, self._text), lambda _: None)

    def run(self, streams: int, tokens: int) -> float:
        """Seconds for one answer of `tokens` tokens on each stream."""
        requests = [a_request(self._text, n, tokens) for n in range(streams)]
        began = time.perf_counter()
        for n, request in enumerate(requests):
            self._stepper.add(n, request.prompt_ids, request.sampling)
        got = 0
        while self._stepper.busy():
            got += sum(len(row.ids) for row in self._stepper.step())
        seconds = time.perf_counter() - began
        assert got == streams * tokens, f"{got} tokens, not {streams * tokens}"
        return seconds


def run_bare(name: str, path: str) -> None:
    """A child that says how long each run took."""
    bare = Bare(name, path)
    say("ready")
    for line in sys.stdin:
        say(bare.run(**json.loads(line)))


def http_request(path: str, body: dict[str, Any] | None) -> bytes:
    """A request as bytes; without a body it is a GET."""
    if body is None:
        return f"GET {path} HTTP/1.1\r\nHost: engine\r\n\r\n".encode()
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def raw(server: str, door: str, served: str, streams: int, tokens: int) -> float:
    """Seconds for the same straight from a server's socket."""
    text, known = a_text_once(), a_server(server)
    assert known is not None
    requests = []
    for n in range(streams):
        path, body = request_body(a_request(text, n, tokens), known.dialect, served, window=WINDOW)
        requests.append(http_request(f"/v1{path}", body))
    loop = asyncio.get_running_loop()
    made = [await loop.create_unix_connection(Connection, door) for _ in range(streams)]
    connections = [connection for _, connection in made]
    began = time.perf_counter()
    pairs = zip(connections, requests, strict=True)
    statuses = await asyncio.gather(*(connection.ask(r) for connection, r in pairs))
    seconds = time.perf_counter() - began
    assert set(statuses) == {200}, statuses
    for connection in connections:
        connection.close()
    return seconds


_TEXTS: list[Any] = []


def a_text_once() -> Any:
    """The tokenizer, kept: it is loaded outside of what is timed."""
    if not _TEXTS:
        _TEXTS.append(a_text())
    return _TEXTS[0]


# -- through a replica ----------------------------------------------------------------------------------------------


async def framed(port: int, streams: int, tokens: int) -> tuple[float, int]:
    """Seconds for the same from a replica, and how many frames the tokens came in."""
    loop = asyncio.get_running_loop()
    hello = Hello(secret=SECRET, gateway="benchmark")
    _, link = await loop.create_connection(lambda: Link(hello), "127.0.0.1", port)
    assert isinstance(await link.welcome, Welcome)
    began = time.perf_counter()
    opened = [link.start(_open(n, tokens), SILENCE_S) for n in range(streams)]
    taken = await asyncio.gather(*(_drained(stream) for stream in opened))
    seconds = time.perf_counter() - began
    link.abort()
    got = sum(count for count, _ in taken)
    assert got == streams * tokens, f"{got} tokens, not {streams * tokens}"
    return seconds, sum(frames for _, frames in taken)


def _open(stream: int, tokens: int) -> Open:
    return Open(
        id=f"stream-{stream}",
        kind="chat",
        messages=messages(stream),
        max_tokens=tokens,
        temperature=0,
        ignore_eos=True,
    )


async def _drained(stream: Stream) -> tuple[int, int]:
    """Tokens and frames of one stream."""
    count = frames = 0
    while True:
        events = await stream.take()
        assert events, "the replica is silent"
        for event in events:
            if isinstance(event, Tokens):
                count += len(event.ids)
                frames += 1
            else:
                assert isinstance(event, End), event
                return count, frames


# -- side by side ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """Both variants of one engine, running.

    Attributes:
        bare: the process with the plain loop; None = a server, asked at `door` for `served`.
        pid: of the replica's process.
    """

    engine: str
    bare: Child | None
    replica: Child
    port: int
    pid: int
    door: str = ""
    served: str = ""

    def alone(self, streams: int, tokens: int) -> float:
        """Seconds without us."""
        if self.bare is not None:
            return float(self.bare.ask({"streams": streams, "tokens": tokens}))
        a_text_once()
        return uvloop.run(raw(self.engine, self.door, self.served, streams, tokens))


def sides(started: list[Child], module: str, name: str, path: str) -> Sides:
    """Starts both; a server is started once, by our replica."""
    bare = None
    if a_server(name) is None:
        bare = start(module, "--role", "bare", name, path, variables=HOSTED)
        started.append(bare)
        bare.read()
    replica = start(module, "--role", "replica", name, path)
    started.append(replica)
    said = replica.read()
    door, served = ("", "") if bare is not None else door_of(tuple(said["processes"]))
    return Sides(name, bare, replica, said["port"], replica.process.pid, door, served)


def throughput(both: Sides, rounds: int, tokens: int) -> dict[str, Any]:
    """Cells for 1, 8 and 32 streams; one more round of each first, which is not counted."""
    return {str(n): _cell(both, n, rounds, tokens) for n in STREAMS}


def _cell(both: Sides, streams: int, rounds: int, tokens: int) -> dict[str, Any]:
    """Who goes first changes every round."""
    turns = rounds * REPEATS[streams] + 1
    rows = [_round(both, streams, tokens, alone_first=turn % 2 == 0) for turn in range(turns)]
    alone, ours, cpu, frames = zip(*rows[1:], strict=True)
    asked = streams * tokens
    return {
        "bare_tokens_per_s": spread(asked / s for s in alone),
        "tokens_per_s": spread(asked / s for s in ours),
        "ratio": spread(a / b for a, b in zip(alone, ours, strict=True)),
        "ratio_of_best": round(min(alone) / min(ours), 4),
        "frames_per_token": round(frames[-1] / asked, 3),
        "replica_cpu_us_per_token": round(1e6 * sum(cpu) / len(cpu) / asked, 1),
    }


def _round(
    both: Sides, streams: int, tokens: int, *, alone_first: bool
) -> tuple[float, float, float, int]:
    """Seconds alone, seconds of ours, CPU seconds of the replica, frames."""
    alone = both.alone(streams, tokens) if alone_first else 0.0
    before = cpu_s(both.pid)
    ours, frames = uvloop.run(framed(both.port, streams, tokens))
    cpu = cpu_s(both.pid) - before
    return alone or both.alone(streams, tokens), ours, cpu, frames


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, without its children."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
