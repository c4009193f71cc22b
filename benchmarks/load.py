"""A load client on raw asyncio: kept-alive connections, OpenAI streams, counted events, times to the first event.

It shares the machine with what it measures, so it does as little as possible per event.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

END_OF_BODY = b"\r\n0\r\n\r\n"
EVENT = b"data: "


@dataclass
class Tally:
    """What one run of one variant delivered."""

    requests: int = 0
    events: int = 0
    failed: int = 0
    seconds: float = 0.0
    first_event_s: list[float] = field(default_factory=list)

    def report(self) -> dict[str, float]:
        """Rates and quantiles."""
        firsts = sorted(self.first_event_s) or [0.0]
        return {
            "requests": self.requests,
            "failed": self.failed,
            "requests_per_s": self.requests / self.seconds,
            "events_per_s": self.events / self.seconds,
            "ttft_p50_ms": 1000 * statistics.median(firsts),
            "ttft_p99_ms": 1000 * firsts[int(0.99 * (len(firsts) - 1))],
        }


class Connection(asyncio.Protocol):
    """One kept-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[int] | None = None
        self._tail = b""
        self._status = b""
        self._began = 0.0
        self.events = 0
        self.first_event_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Sends a request; the future gives the HTTP status once the body is complete."""
        assert self._transport is not None
        self._done = self._loop.create_future()
        self._tail = self._status = b""
        self.events = 0
        self.first_event_s = 0.0
        self._began = time.perf_counter()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        """Counts events; a carry of a few bytes finds those that a read cut in two."""
        if not self._status:
            self._status = data[9:12]
        joined = self._tail + data
        self.events += joined.count(EVENT) - self._tail.count(EVENT)
        if self.events and not self.first_event_s:
            self.first_event_s = time.perf_counter() - self._began
        self._tail = joined[-8:]
        if joined.endswith(END_OF_BODY) or self._status != b"200":
            self._finish(int(self._status))

    def connection_lost(self, exc: Exception | None) -> None:
        """A request that was not answered counts as failed."""
        self._finish(0)

    def close(self) -> None:
        """Hangs up."""
        if self._transport is not None:
            self._transport.close()

    def _finish(self, status: int) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(status)


def chat_request(port: int, body: dict[str, Any]) -> bytes:
    """A streamed chat request as bytes."""
    data = json.dumps({**body, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def connect(port: int, count: int) -> list[Connection]:
    """Open connections."""
    loop = asyncio.get_running_loop()
    pairs = [await loop.create_connection(Connection, "127.0.0.1", port) for _ in range(count)]
    return [connection for _, connection in pairs]


async def drive(connections: Sequence[Connection], request: bytes, seconds: float) -> Tally:
    """Every connection asks again and again until the time is over; what was asked is awaited and counted."""
    tally = Tally()
    began = time.perf_counter()

    async def ask_on(connection: Connection) -> None:
        while time.perf_counter() - began < seconds:
            status = await connection.ask(request)
            tally.requests += 1
            tally.failed += status != 200
            tally.events += connection.events
            tally.first_event_s.append(connection.first_event_s)
            if status == 0:
                return

    await asyncio.gather(*(ask_on(connection) for connection in connections))
    tally.seconds = time.perf_counter() - began
    return tally
