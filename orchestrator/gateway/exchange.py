"""One client's request on its way to a replica: picked, tried, tried elsewhere while the client has seen nothing.

Decides what is worth another attempt. It must not know HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from actors.needs import unmet
from actors.wire import End, Failure, Open, Reject, Tokens, WireError

from ..errors import RequestError
from ..metrics import GatewayMetrics
from ..routing.budget import RetryBudget
from ..routing.pick import Refusal, ReplicaKey, key_of, pick
from ..routing.replicas import ReplicaEntry
from .link import ClientGone, Event, Stream
from .problems import from_failure, from_reject
from .upstream import ReplicaLost, Upstreams

log = structlog.get_logger()

EXTRA_ATTEMPTS = 2
ELSEWHERE = frozenset({"queue_full", "draining", "model_loading", "no_healthy_replica"})
"""Rejections that speak of the replica, not of the request."""

OnSilence = Callable[[], Awaitable[None]]


async def _keep_waiting() -> None:
    """Without a stream to the client there is nothing to keep alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A parsed request: the model's name and the frame to send."""

    model: str
    request: Open
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A complete answer, for requests that are not streamed."""

    text: str
    end: End


class Dispatcher:
    """What all exchanges of a gateway share."""

    def __init__(self, upstreams: Upstreams, metrics: GatewayMetrics, *, silence_s: float) -> None:
        self.upstreams = upstreams
        self.metrics = metrics
        self.silence_s = silence_s
        self.budget = RetryBudget()
        self.turn = 0

    def exchange(self, call: Call) -> Exchange:
        """Starts to answer a call; nothing is sent yet."""
        return Exchange(self, call)


class Exchange:
    """The attempts of one call. One reader; `cancel` may come from elsewhere on the loop."""

    def __init__(self, dispatcher: Dispatcher, call: Call) -> None:
        self._dispatcher = dispatcher
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._tried: list[ReplicaKey] = []
        self._too_small: tuple[ReplicaKey, ...] = ()
        self._stream: Stream | None = None
        self._gone = False
        self._failure: RequestError | None = None
        self.replica: ReplicaEntry | None = None

    async def begin(self, on_silence: OnSilence = _keep_waiting) -> list[Event]:
        """The first events of the first replica that produces any; the first event is Tokens or End.

        Raises:
            RequestError: no replica can answer, or the request is at fault.
            ClientGone: after `cancel`.
        """
        if not self._tried:
            self._dispatcher.budget.count(self._began)
        while True:
            stream = self._open()
            events = await stream.take()
            while not events:
                await on_silence()
                events = await stream.take()
            if self._has_larger(events[0]):
                continue
            problem = self._problem(events[0])
            if problem is None:
                self._note_first_token()
                return events
            self._require_retry(*problem)

    async def more(self, on_silence: OnSilence = _keep_waiting) -> list[Event]:
        """The next events of the stream that `begin` chose; at least one."""
        assert self._stream is not None
        while not (events := await self._stream.take()):
            await on_silence()
        return events

    async def complete(self) -> Answered:
        """The whole answer. A replica that dies on the way is replaced from the start: the client saw nothing."""
        while True:
            text: list[str] = []
            events = await self.begin()
            while True:
                for event in events:
                    if isinstance(event, Tokens):
                        text.append(event.text)
                    elif isinstance(event, End):
                        return Answered(text="".join(text), end=event)
                last = events[-1]
                if isinstance(last, Failure):
                    self._require_retry(from_failure(last), last.retryable)
                    break
                events = await self.more()

    def cancel(self) -> None:
        """The client is gone: aborts what runs, starts nothing more."""
        self._gone = True
        if self._stream is not None:
            self._stream.cancel()

    def _open(self) -> Stream:
        dispatcher = self._dispatcher
        while True:
            if self._gone:
                raise ClientGone
            dispatcher.turn += 1
            choice = pick(
                dispatcher.upstreams.table(),
                self._call.model,
                dispatcher.upstreams.loads(),
                request=self._call.request,
                exclude=(*self._tried, *self._too_small),
                turn=dispatcher.turn,
            )
            if isinstance(choice, Refusal):
                raise self._failure or self._refused(choice)
            key = key_of(choice.replica)
            self._tried.append(key)
            try:
                stream = dispatcher.upstreams.open(key, self._request(), dispatcher.silence_s)
            except ReplicaLost:
                continue
            except WireError as error:
                raise RequestError(error.message, reason="body_too_large") from error
            self._stream, self.replica = stream, choice.replica
            return stream

    def _refused(self, refusal: Refusal) -> RequestError:
        if refusal.considered:
            log.info("request.refused", reason=refusal.reason, considered=refusal.considered)
        return RequestError(
            refusal.message,
            reason=refusal.reason,
            param=refusal.param,
            retry_after_s=refusal.retry_after_s,
        )

    def _request(self) -> Open:
        """The request with what is left of its deadline."""
        request = self._call.request
        if len(self._tried) == 1:
            return request
        left_s = request.deadline_s - (self._loop.time() - self._began)
        if left_s <= 0:
            raise RequestError(
                f"no answer after {request.deadline_s:.0f} s", reason="deadline_exceeded"
            )
        return replace(request, deadline_s=left_s)

    def _problem(self, event: Event) -> tuple[RequestError, bool] | None:
        """What is wrong with an attempt, and whether another replica may do better."""
        if isinstance(event, Reject):
            return from_reject(event), event.code in ELSEWHERE
        if isinstance(event, Failure):
            return from_failure(event), event.retryable
        return None

    def _has_larger(self, event: Event) -> bool:
        """Whether the prompt was too long for the last replica and another has a larger window: only those are tried then.

        That is no failure of anybody, so it costs nothing of the retry budget.
        """
        if not isinstance(event, Reject) or event.code != "context_length_exceeded":
            return False
        assert self.replica is not None
        window = self.replica.window
        table = self._dispatcher.upstreams.table()
        ours = [r for r in table.replicas if r.model == self._call.model]
        self._too_small = tuple(key_of(r) for r in ours if r.window <= window)
        return any(r.window > window and self._may_be_able(r) for r in ours)

    def _may_be_able(self, replica: ReplicaEntry) -> bool:
        """One that loads has not said yet what it can do."""
        request = self._call.request
        return replica.state == "loading" or unmet(request, replica.capabilities) is None

    def _require_retry(self, error: RequestError, elsewhere: bool) -> None:
        """Returns when another attempt may be made; raises the error otherwise."""
        if not elsewhere or len(self._tried) > EXTRA_ATTEMPTS:
            raise error
        if not self._dispatcher.budget.take(self._loop.time()):
            raise error
        self._failure = error
        self._dispatcher.metrics.retried(error.reason)

    def _note_first_token(self) -> None:
        waited_s = self._loop.time() - self._began
        self._dispatcher.metrics.first_token(self._call.model, waited_s)
