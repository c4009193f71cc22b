"""One gateway's connection to a replica: hello, streams, credits, cancellation.

Decides which frames a gateway may send when. It must not know how an answer is made: `Host` does that.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Protocol

import structlog

from .framing import FramedConnection
from .generation import Sink
from .wire import (
    VERSION,
    Answer,
    Failure,
    Frame,
    Hello,
    Kind,
    Open,
    Reject,
    State,
    Tokens,
    Welcome,
    WireError,
    decode,
    decode_credit,
    encode,
    frame,
    tokens_frame,
)

log = structlog.get_logger()

HELLO_TIMEOUT_S = 5.0

LONGEST_TEXT = 1 << 20
"""Characters in one frame: an engine that tells no ids may gather more than a frame has room for."""


class Host(Protocol):
    """The replica behind the connections."""

    def welcome(self) -> Welcome:
        """Who is here."""
        ...

    def state(self) -> State:
        """The load now."""
        ...

    def answer(self, request: Open, sink: Sink) -> asyncio.Task[None]:
        """Starts to answer; cancelling the task aborts."""
        ...


class Session(FramedConnection):
    """Server side of one connection.

    Args:
        sessions: the replica's set of live connections; this one adds and removes itself.
    """

    def __init__(self, host: Host, secret: str, sessions: set[Session]) -> None:
        super().__init__()
        self._host = host
        self._secret = secret
        self._sessions = sessions
        self._greeted = False
        self._streams: dict[int, _Outlet] = {}
        self._hello_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for HELLO, not for ever."""
        super().connection_made(transport)
        self._sessions.add(self)
        self._hello_timer = self._loop.call_later(HELLO_TIMEOUT_S, self.abort)

    def received(self, frame: Frame) -> None:
        """Takes one frame of the gateway."""
        if not self._greeted:
            self._greet(frame)
        elif frame.kind == Kind.OPEN:
            self._open(frame)
        elif frame.kind == Kind.CREDIT:
            self._credit(frame)
        elif frame.kind == Kind.CANCEL:
            self._cancel(frame.stream)
        elif frame.kind == Kind.PING:
            self._pong()
        else:
            raise WireError(f"frame kind {frame.kind} is not for a replica")

    def send_state(self) -> None:
        """Tells the gateway the state and load now."""
        if self._greeted:
            self.send(encode(0, self._host.state()))

    def lost(self) -> None:
        """Aborts everything that this gateway asked for."""
        self._sessions.discard(self)
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        for outlet in tuple(self._streams.values()):
            outlet.cancel()
        self._streams.clear()

    def writable(self) -> None:
        """Sends what gathered while the gateway did not read."""
        for outlet in self._streams.values():
            outlet.flush_held()

    def _greet(self, first: Frame) -> None:
        hello = decode(first.kind, first.payload) if first.kind == Kind.HELLO else None
        if not isinstance(hello, Hello):
            raise WireError("the first frame is not HELLO")
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        refusal = self._refusal(hello)
        if refusal is not None:
            log.warning("gateway.refused", gateway=hello.gateway[:100], reason=refusal.code)
            self.send(encode(0, refusal))
            self.hang_up()
            return
        self._greeted = True
        self.send(encode(0, self._host.welcome()))
        self.send_state()

    def _refusal(self, hello: Hello) -> Failure | None:
        if hello.version != VERSION:
            says = f"this replica speaks version {VERSION}, the gateway {hello.version}"
            return Failure("wrong_version", says)
        if not hmac.compare_digest(hello.secret.encode(), self._secret.encode()):
            return Failure("wrong_secret", "the secret is not that of this cluster")
        return None

    def _open(self, opened: Frame) -> None:
        number = opened.stream
        if number == 0 or number in self._streams:
            raise WireError(f"stream {number} is in use")
        try:
            request = decode(opened.kind, opened.payload)
        except WireError as error:
            self.send(encode(number, Reject("invalid_value", error.message)))
            return
        assert isinstance(request, Open)
        outlet = _Outlet(self, number, request.credits)
        self._streams[number] = outlet
        task = self._host.answer(request, outlet)
        outlet.cancel = task.cancel
        task.add_done_callback(lambda ended: self._over(number, ended))

    def _over(self, number: int, task: asyncio.Task[None]) -> None:
        """Whatever ended a stream: its gateway never waits for an end that does not come."""
        self._streams.pop(number, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("stream.broken", error=type(error).__name__)
            failure = Failure("internal_error", "the replica could not answer this request")
            self.send(encode(number, failure))

    def _credit(self, credit: Frame) -> None:
        outlet = self._streams.get(credit.stream)
        if outlet is not None:
            outlet.grant(decode_credit(credit.payload))

    def _cancel(self, number: int) -> None:
        outlet = self._streams.pop(number, None)
        if outlet is not None:
            outlet.cancel()

    def _pong(self) -> None:
        self.send_state()
        self.send(frame(0, Kind.PONG))


class _Outlet:
    """Sink of one stream. Without credit, or while the gateway does not read, tokens gather into one frame.

    What gathers is bounded by the window; the last answers need no credit, because there is one of each.
    """

    def __init__(self, session: Session, number: int, credits_: int) -> None:
        self._session = session
        self._number = number
        self._credits = credits_
        self._held_ids: list[int] = []
        self._held_text: list[str] = []
        self.cancel: Callable[[], object] = _nothing

    def deliver(self, answer: Answer) -> None:
        """Sends, or holds, the next answer."""
        if type(answer) is not Tokens:
            self._send_held()
            self._session.send(encode(self._number, answer))
        elif self._credits > 0 and not self._session.paused:
            self._credits -= 1
            self._session.send(tokens_frame(self._number, answer.ids, answer.text))
        else:
            self._held_ids += answer.ids
            self._held_text.append(answer.text)

    def grant(self, count: int) -> None:
        """Allows more TOKENS frames."""
        self._credits += count
        self.flush_held()

    def flush_held(self) -> None:
        """Sends what gathered, if it may."""
        if self._held_text and self._credits > 0 and not self._session.paused:
            self._credits -= 1
            self._send_held()

    def _send_held(self) -> None:
        if not self._held_text:
            return
        ids, text = tuple(self._held_ids), "".join(self._held_text)
        self._held_ids.clear()
        self._held_text.clear()
        for start in range(0, max(1, len(text)), LONGEST_TEXT):
            piece = text[start : start + LONGEST_TEXT]
            self._session.send(tokens_frame(self._number, ids if start == 0 else (), piece))


def _nothing() -> None:
    """Before the task exists there is nothing to cancel."""
