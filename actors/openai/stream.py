"""A client of an OpenAI-compatible server: requests out, server-sent events in, chunks of ids or text.

Decides what a complete and sound answer is: a stream counts only with a finish reason and its `[DONE]`, ids only inside the
vocabulary. Whatever else arrives fails that one request. It must not know processes; who the server is, and over which connector it is
reached, is the caller's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import aiohttp

from ..engine import Chunk, EngineRequest
from ..errors import EngineError
from .body import COMPLETIONS, request_body
from .dialect import Dialect
from .events import Disconnected, Reading, Unreachable, complaint

CONNECT_DEADLINE_S = 10.0
ANSWER_BYTES = 8 << 20
"""Longest answer that is not a stream."""
_COMPLAINT_BYTES = 64 << 10
_BUFFER_BYTES = 64 << 10
"""Taken from a server before it has to wait for the reader."""


class OpenAIClient:
    """Talks to one server. One session, closed with `close`; proxies of the environment are not used.

    Args:
        name: of the engine, for messages.
        base_url: up to and with the version, e.g. `http://engine/v1`.
        model: the name under which the server knows the model.
        window, vocab: 0 = not known, then not checked.
        amend: changes the body of a request, given its route, before it is sent.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        model: str,
        dialect: Dialect,
        connector: aiohttp.BaseConnector,
        headers: Mapping[str, str] | None = None,
        window: int = 0,
        vocab: int = 0,
        eos_ids: tuple[int, ...] = (),
        amend: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self.name = name
        self._amend = amend
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._dialect = dialect
        self._window = window
        self._vocab = vocab
        self._eos_ids = eos_ids
        self._calls: set[_Call] = set()
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Accept-Encoding": "identity", **(headers or {})},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_DEADLINE_S),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_BUFFER_BYTES,
        )

    @property
    def open(self) -> int:
        """Requests under way."""
        return len(self._calls)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Chunk]:
        """See `Engine`. Waits for ever: deadlines are the caller's.

        Raises:
            Disconnected: nobody answers, or not to the end.
            EngineError: the server refused the request, or answered garbage.
        """
        path, body = request_body(
            request, self._dialect, self._model, window=self._window, eos_ids=self._eos_ids
        )
        told = self._dialect.ids_switch is not None and path == COMPLETIONS
        reading = Reading(
            request,
            ids_field=self._dialect.ids_field if told else "",
            most=body["max_tokens"],
            vocab=self._vocab,
            eos_ids=self._eos_ids,
        )
        if self._amend is not None:
            self._amend(path, body)
        call = _Call(request)
        self._calls.add(call)
        try:
            await call.open(self._session, self._base_url + path, body)
            while not reading.finished:
                chunk = reading.feed(await call.read())
                if chunk is not None:
                    yield chunk
                if reading.error is not None:
                    raise reading.error
        except _Aborted:
            yield Chunk((), "abort")
        except EngineError as error:
            raise self._named(error) from None
        finally:
            self._calls.discard(call)
            call.close()

    async def abort(self, request: str) -> None:
        """Ends what runs under that request id."""
        for call in [call for call in self._calls if call.request.id == request]:
            call.abort()

    async def models(self, deadline_s: float) -> tuple[str, ...]:
        """Names of the models that the server lists.

        Raises:
            EngineError: it does not answer in time, or answers garbage.
        """
        text = await self.get(f"{self._base_url}/models", deadline_s)
        try:
            return tuple(str(entry["id"]) for entry in json.loads(text)["data"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise EngineError(f"{self.name} lists its models in an unknown form") from None

    async def get(self, url: str, deadline_s: float) -> str:
        """The body of a GET.

        Raises:
            Disconnected: nobody answers whole in time.
            EngineError: the status is not 200, or the body is longer than 8 MiB.
        """
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._session.get(url, allow_redirects=False) as response,
            ):
                body = await _body(response, ANSWER_BYTES)
                if response.status != 200:
                    raise self._named(complaint(response.status, body[:_COMPLAINT_BYTES], None))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._named(_lost(error)) from None
        if len(body) > ANSWER_BYTES:
            raise EngineError(f"{self.name} answered with more than {ANSWER_BYTES} bytes")
        return body.decode(errors="replace")

    def _named(self, error: EngineError) -> EngineError:
        return type(error)(f"{self.name} {error.message}", hint=error.hint, **error.fields)

    async def close(self) -> None:
        """Ends all requests and connections. Idempotent."""
        for call in list(self._calls):
            call.abort()
        await self._session.close()


class _Aborted(Exception):
    """Somebody asked for this request's end."""


class _Call:
    """One request on the wire."""

    __slots__ = ("_aborted", "_content", "_response", "_sending", "request")

    def __init__(self, request: EngineRequest) -> None:
        self.request = request
        self._aborted = False
        self._sending: asyncio.Task[aiohttp.ClientResponse] | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._content: aiohttp.StreamReader | None = None

    async def open(self, session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> None:
        """Sends it and takes the head of the answer."""
        self._sending = asyncio.ensure_future(_post(session, url, body))
        try:
            # A task of its own, as `abort` must not look like the cancellation of the caller.
            await asyncio.wait((self._sending,))
            if self._aborted:
                raise _Aborted
            response = self._response = self._sending.result()
        except (aiohttp.ClientError, OSError) as error:
            raise _lost(error) from None
        if response.status != 200:
            error = complaint(response.status, await self._complaint(response), self.request)
            error.fields["retry_after_s"] = _seconds(response.headers.get("Retry-After", ""))
            raise error
        if response.content_type != "text/event-stream":
            raise EngineError(f"answered with {response.content_type[:60]} instead of a stream")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise EngineError("answered with a compressed stream")
        self._content = response.content

    async def _complaint(self, response: aiohttp.ClientResponse) -> bytes:
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                return await _body(response, _COMPLAINT_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return b""

    async def read(self) -> bytes:
        """What has arrived; empty at the end."""
        assert self._content is not None
        try:
            data = await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            if self._aborted:
                raise _Aborted from None
            raise _lost(error) from None
        if self._aborted:
            raise _Aborted
        return data

    def abort(self) -> None:
        self._aborted = True
        self.close()

    def close(self) -> None:
        """Hangs up at once, which makes the server stop."""
        if self._response is not None:
            self._response.close()
        elif self._sending is not None and not self._sending.cancel():
            _hang_up(self._sending)


def _seconds(text: str) -> float:
    """How long a server asks to be left alone; 0 where it says nothing, or a date."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0


async def _post(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]
) -> aiohttp.ClientResponse:
    return await session.post(url, json=body, allow_redirects=False)


def _hang_up(sent: asyncio.Task[aiohttp.ClientResponse]) -> None:
    """For a request that was given up in the moment in which its answer came."""
    if not sent.cancelled() and sent.exception() is None:
        sent.result().close()


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, or a little more than `most` bytes of it."""
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > most:
            break
    return bytes(body)


def _lost(error: BaseException) -> Disconnected:
    """Why the connection gave out, without its address, which may hold a secret."""
    if isinstance(error, TimeoutError):
        return Disconnected("did not answer in time")
    if isinstance(error, aiohttp.ClientSSLError):
        return Disconnected("could not be reached: TLS failed")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unreachable(f"could not be reached: {error.os_error.strerror or 'no reason given'}")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Disconnected("broke off in the middle of its answer")
    if isinstance(error, aiohttp.ClientResponseError):
        return Disconnected("answered with something that is not HTTP")
    return Disconnected("closed the connection")
