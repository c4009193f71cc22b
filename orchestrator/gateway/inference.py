"""The two inference routes as ASGI applications: body in, whole answer or stream out.

Decides when headers go out (with the first token, or after one period of silence) and how a stream ends: with
finish_reason and [DONE], or with an error event, never with a bare EOF.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from actors.wire import End, Failure, Tokens

from ..errors import RequestError
from ..metrics import GatewayMetrics
from ..routing.replicas import ReplicaEntry
from .bodies import read_body
from .exchange import Call, Dispatcher, Exchange
from .link import ClientGone, Event
from .problems import CLIENT_GONE, from_failure, internal_error
from .streams import KEEP_ALIVE, Events, Identity, Shape, error_event

log = structlog.get_logger()

LATE_S = 10.0
"""How long after a request's deadline its connection may still be written to."""

Headers = list[tuple[bytes, bytes]]
ReadCall = Callable[[bytes, str, float], Call]


def receipt(replica: ReplicaEntry) -> Headers:
    """Which replica answered, and whether its hardware is real."""
    headers = [
        (b"x-shardyard-replica", replica.slot.encode()),
        (b"x-shardyard-device-class", replica.device_class.encode()),
        (b"x-shardyard-engine", replica.engine.encode()),
        (b"x-shardyard-continuation", replica.capabilities.continuation.encode()),
    ]
    if replica.emulated:
        headers.append((b"x-shardyard-emulated", b"true"))
    return headers


class Inference:
    """One route.

    Args:
        read: parses the body; raises `RequestError`.
        largest_body: bytes.
        deadline_s: for the whole answer.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        shape: Shape,
        read: ReadCall,
        *,
        largest_body: int,
        deadline_s: float,
    ) -> None:
        self._dispatcher = dispatcher
        self._shape = shape
        self._read = read
        self._largest_body = largest_body
        self._deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request.

        Raises:
            RequestError: before anything was sent.
        """
        state = scope["state"]
        try:
            body = await read_body(scope, receive, self._largest_body)
            call = self._read(body, state["request_id"], self._deadline_s)
            await self._answer(call, state, receive, send)
        except ClientGone:
            state["status"] = CLIENT_GONE

    async def _answer(
        self, call: Call, state: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        exchange = self._dispatcher.exchange(call)
        reply = Reply(send, exchange, call, self._shape, self._dispatcher.metrics)
        watch = asyncio.get_running_loop().create_task(_watch(receive, exchange))
        try:
            async with asyncio.timeout(self._deadline_s + LATE_S):
                await (reply.stream() if call.stream else reply.whole())
        except TimeoutError as error:
            if reply.started:
                raise
            raise RequestError("the answer is too late", reason="deadline_exceeded") from error
        finally:
            watch.cancel()
            exchange.cancel()
            state["model"] = call.model if exchange.replica is not None else ""


async def _watch(receive: Receive, exchange: Exchange) -> None:
    """Cancels the generation as soon as the client hangs up."""
    with suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        exchange.cancel()


class Reply:
    """The answer to one call, written as it comes."""

    def __init__(
        self,
        send: Send,
        exchange: Exchange,
        call: Call,
        shape: Shape,
        metrics: GatewayMetrics,
    ) -> None:
        self._send = send
        self._exchange = exchange
        self._call = call
        self._shape = shape
        self._metrics = metrics
        self._events: Events | None = None
        self.started = False

    async def whole(self) -> None:
        """Sends one document."""
        answered = await self._exchange.complete()
        self._completed(answered.end)
        body = json.dumps(self._shape.whole(self._identity(), answered)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *self._receipt(),
        ]
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self) -> None:
        """Sends events until the answer is complete or has failed."""
        try:
            events = await self._exchange.begin(self._keep_alive)
            while await self._write(events):
                events = await self._exchange.more(self._keep_alive)
        except RequestError as error:
            if not self.started:
                raise
            await self._break(error)
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception:
            if not self.started:
                raise
            log.exception("stream.broken", request=self._call.request.id)
            await self._break(internal_error())

    async def _write(self, events: list[Event]) -> bool:
        """Sends all of them in one write; whether more are to come."""
        chunks: list[str] = []
        if self._events is None:
            self._events = self._opened()
            chunks.append(self._events.opening())
        for event in events:
            if type(event) is Tokens:
                if event.text:
                    chunks.append(self._events.text(event.text))
            elif type(event) is End:
                self._completed(event)
                chunks.append(self._events.closing(event))
                await self._body("".join(chunks).encode(), more=False)
                return False
            elif type(event) is Failure:
                if chunks:
                    await self._body("".join(chunks).encode())
                raise from_failure(event)
        if chunks:
            await self._body("".join(chunks).encode())
        return True

    def _opened(self) -> Events:
        return Events(self._shape, self._identity(), include_usage=self._call.include_usage)

    async def _body(self, data: bytes, *, more: bool = True) -> None:
        if not self.started:
            await self._start()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _start(self) -> None:
        self.started = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *self._receipt(),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _keep_alive(self) -> None:
        """A comment, which every client ignores, after each period of silence."""
        await self._body(KEEP_ALIVE)

    async def _break(self, error: RequestError) -> None:
        self._metrics.broken_streams.inc()
        log.warning("stream.failed", request=self._call.request.id, reason=error.reason)
        await self._body(error_event(error), more=False)

    def _identity(self) -> Identity:
        replica = self._exchange.replica
        assert replica is not None
        return Identity(
            id=self._shape.id_prefix + uuid.uuid4().hex,
            created=int(time.time()),
            model=self._call.model,
            fingerprint=f"{replica.engine}-{replica.device_class}",
        )

    def _receipt(self) -> Headers:
        replica = self._exchange.replica
        return receipt(replica) if replica is not None else []

    def _completed(self, end: End) -> None:
        self._metrics.completed(self._call.model, end.prompt_tokens, end.completion_tokens)
