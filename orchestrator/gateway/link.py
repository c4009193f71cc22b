"""The gateway's end of one connection to one replica, and the streams on it.

Decides what a lost connection means for its streams: each ends with a failure at once. It must not know HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from actors.framing import FramedConnection
from actors.wire import (
    Answer,
    End,
    Failure,
    First,
    Frame,
    Hello,
    Kind,
    Open,
    Reject,
    State,
    Tokens,
    Welcome,
    WireError,
    credit_frame,
    decode,
    decode_tokens,
    encode,
    frame,
)

log = structlog.get_logger()

CREDITS = 256
"""TOKENS frames that may lie unread per stream; a slow client's further tokens stay in the replica."""

Event = Tokens | End | Failure | Reject


class StreamControl(Protocol):
    """What a stream may ask of its connection."""

    def cancel(self, number: int) -> None:
        """Aborts a stream; nothing of it arrives any more."""
        ...

    def credit(self, number: int, count: int) -> None:
        """Allows more TOKENS frames."""
        ...


class ClientGone(Exception):
    """The client hung up; nobody is left to answer."""


class Stream:
    """The box between a connection and one HTTP response: bounded by credits, taken out in batches.

    Args:
        silence_s: `take` returns nothing after this long without an event.
    """

    def __init__(self, control: StreamControl, number: int, silence_s: float) -> None:
        self.first: First | None = None
        self.ended = False
        self._control = control
        self._number = number
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._box: list[Event] = []
        self._taken = 0
        self._waiter: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._waiting_since = 0.0
        self._gone = False

    def deliver(self, answer: Answer) -> None:
        """Takes an answer from the connection."""
        if type(answer) is First:
            self.first = answer
            return
        assert not isinstance(answer, First)
        self._box.append(answer)
        if type(answer) is not Tokens:
            self._end()
        self._wake()

    async def take(self) -> list[Event]:
        """Every event that is there, or arrives next; empty after a period of silence.

        Raises:
            ClientGone: after `cancel`.
        """
        if not self._box and not self._gone:
            await self._wait()
        if self._gone:
            raise ClientGone
        events = self._box
        self._box = []
        self._taken += len(events)
        return events

    def cancel(self) -> None:
        """Aborts the stream in the engine and wakes its reader with `ClientGone`."""
        self._gone = True
        if not self.ended:
            self._end()
            self._control.cancel(self._number)
        self._wake()

    async def _wait(self) -> None:
        self._grant()
        self._waiter = self._loop.create_future()
        self._waiting_since = self._loop.time()
        if self._alarm is None:
            self._alarm = self._loop.call_later(self._silence_s, self._ring)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _grant(self) -> None:
        """What was taken has been written by now; the replica may send as much again."""
        if self._taken >= CREDITS // 2 and not self.ended:
            self._control.credit(self._number, self._taken)
            self._taken = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ring(self) -> None:
        """One timer per stream serves all its waits; it goes on when the silence is younger than itself."""
        self._alarm = None
        if self._waiter is None:
            return
        left = self._silence_s - (self._loop.time() - self._waiting_since)
        if left > 0.01:
            self._alarm = self._loop.call_later(left, self._ring)
        else:
            self._wake()

    def _end(self) -> None:
        self.ended = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class Link(FramedConnection):
    """Client side of one connection. Opened, then WELCOME or a refusal, then streams until it is lost."""

    def __init__(self, hello: Hello) -> None:
        super().__init__()
        self._hello = hello
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self.welcome: asyncio.Future[Welcome | Failure] = self._loop.create_future()
        self.closed = asyncio.Event()
        self.state = "loading"
        self.unanswered_pings = 0
        self.elsewhere = 0

    @property
    def streams(self) -> int:
        """Streams that have not ended."""
        return len(self._streams)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says who we are."""
        super().connection_made(transport)
        self.send(encode(0, self._hello))

    def start(self, request: Open, silence_s: float) -> Stream:
        """Opens a stream.

        Raises:
            WireError: the request is larger than a frame may be.
        """
        number = self._next
        self._next = number % 0xFFFFFFFE + 1
        opening = encode(number, request)
        stream = Stream(self, number, silence_s)
        self._streams[number] = stream
        self.send(opening)
        return stream

    def cancel(self, number: int) -> None:
        """Aborts a stream."""
        if self._streams.pop(number, None) is not None:
            self.send(frame(number, Kind.CANCEL))

    def credit(self, number: int, count: int) -> None:
        """Allows more TOKENS frames."""
        self.send(credit_frame(number, count))

    def ping(self) -> None:
        """Asks for a sign of life; any frame answers."""
        self.unanswered_pings += 1
        self.send(frame(0, Kind.PING))

    def data_received(self, data: bytes) -> None:
        """Any byte is a sign of life."""
        self.unanswered_pings = 0
        super().data_received(data)

    def received(self, frame: Frame) -> None:
        """Takes one frame of the replica."""
        if frame.stream == 0:
            self._about_replica(frame)
            return
        stream = self._streams.get(frame.stream)
        if stream is None:
            return
        if frame.kind == Kind.TOKENS:
            try:
                stream.deliver(decode_tokens(frame.payload))
            except ValueError as error:
                raise WireError("malformed TOKENS frame") from error
            return
        answer = decode(frame.kind, frame.payload)
        if not isinstance(answer, (First, End, Failure, Reject)):
            raise WireError(f"frame kind {frame.kind} on a stream")
        if type(answer) is not First:
            del self._streams[frame.stream]
        stream.deliver(answer)

    def _about_replica(self, frame: Frame) -> None:
        if frame.kind == Kind.PONG:
            return
        message = decode(frame.kind, frame.payload)
        if isinstance(message, State):
            self.state = message.state
            self.elsewhere = max(0, message.running + message.waiting - len(self._streams))
        elif isinstance(message, (Welcome, Failure)):
            if isinstance(message, Welcome):
                self.state = message.state
            if not self.welcome.done():
                self.welcome.set_result(message)
        else:
            raise WireError(f"frame kind {frame.kind} on stream 0")

    def lost(self) -> None:
        """Every stream fails at once."""
        if not self.welcome.done():
            self.welcome.set_result(Failure("replica_lost", "the connection was closed"))
        failure = Failure("replica_lost", "the replica is gone", True)
        for stream in self._streams.values():
            stream.deliver(failure)
        self._streams.clear()
        self.closed.set()
