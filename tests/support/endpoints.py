"""An OpenAI-compatible server on the loopback, in the test's own event loop, that answers as a test says: well or badly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

DONE = "[DONE]"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    reader: asyncio.StreamReader = field(repr=False)


Answer = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def event(data: object) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data)
    return f"data: {text}\n\n".encode()


def delta(text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    """A chunk of a streamed chat."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def piece(
    text: str = "", finish: str | None = None, ids: list[int] | None = None
) -> dict[str, Any]:
    """A chunk of a streamed completion, with ids where they are told."""
    told = {} if ids is None else {"token_ids": ids}
    choice = {"index": 0, "text": text, "finish_reason": finish, **told}
    return {"object": "text_completion", "choices": [choice]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    """The last chunk of a stream with counts."""
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


def raw(data: bytes) -> Answer:
    """Answers with these bytes and hangs up."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


def says(status: int, body: str, **headers: str) -> Answer:
    """A whole answer with a status."""
    given = {"content-type": "application/json", "content-length": str(len(body.encode()))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return raw(f"HTTP/1.1 {status} X\r\n{head}\r\n{body}".encode())


def streams(*events: object) -> Answer:
    """A whole stream of events."""
    return raw(STREAM_HEAD + b"".join(map(event, (*events, DONE))))


@dataclass(slots=True)
class Endpoint:
    """The server.

    Attributes:
        answer: to a POST.
        models: rows of its list of models, or the whole answer to a question for it.
        asked: all requests so far.
        left: set when a client hung up while it was being answered.
    """

    answer: Answer = field(default_factory=lambda: streams(delta("hello"), delta(finish="stop")))
    models: Any = field(default_factory=lambda: [{"id": "chat"}])
    asked: list[Asked] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    @property
    def posted(self) -> list[Asked]:
        """Requests for a text."""
        return [one for one in self.asked if one.method == "POST"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            asked = await _asked(reader)
            self.asked.append(asked)
            answer = self.answer if asked.method == "POST" else self._list()
            await answer(asked, writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def _list(self) -> Answer:
        if isinstance(self.models, list):
            return says(200, json.dumps({"object": "list", "data": self.models}))
        return self.models

    async def hold(self, asked: Asked) -> None:
        """Says nothing more until the client hangs up."""
        with contextlib.suppress(ConnectionError):
            await asked.reader.read()
        self.left.set()


async def _asked(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {
        name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])
    }
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, json.loads(body) if body else None, reader)


@contextlib.asynccontextmanager
async def serving(
    endpoint: Endpoint, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Endpoint]:
    """Serves until the block ends; then every connection is closed."""
    open_ones: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones[task] = writer
        try:
            await endpoint.serve(reader, writer)
        finally:
            del open_ones[task]

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    endpoint.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield endpoint
    finally:
        server.close()
        tasks = list(open_ones)
        for writer in list(open_ones.values()):
            writer.transport.abort()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
