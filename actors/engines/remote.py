"""A model on somebody else's OpenAI-compatible server. There is no process of ours: a replica waits for it in its own loop.

Decides which endpoint a replica speaks for, how long it waits, and what a failure there means. Keys come from the variable
that the endpoint's entry names, and appear nowhere else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog

from ..engine import Capabilities, Chunk, EngineConfig, EngineRequest, EngineStats, Sampling
from ..errors import EngineError
from ..openai.body import request_body
from ..openai.dialect import Dialect
from ..openai.stream import OpenAIClient
from ..readers.remote_entries import DialectName
from ..remote.dialects import DIALECTS, IDS, Offered, amend
from ..remote.entry import key_of, named_entry
from ..remote.peer import Peer
from ..remote.record import Observed, Record, RemoteFailed, Watch
from ..remote_gate import Gate

log = structlog.get_logger()

REMOTE_LOADED = "remote.loaded"
REMOTE_TELLS_NO_IDS = "remote.tells_no_ids"

FIRST_DEADLINE_S = 120.0
"""From the request to the first token; a server may have to queue it."""
IDLE_DEADLINE_S = 60.0
"""Between two tokens: a server that is silent for longer hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """The model as settled when it was loaded, and how it is asked for."""

    peer: Peer
    model: Offered
    dialect: Dialect
    config: EngineConfig

    @property
    def kind(self) -> DialectName:
        return self.peer.entry.dialect or self.model.kind

    @property
    def window(self) -> int:
        return min(self.config.window, self.model.window or self.config.window)

    def client(self) -> OpenAIClient:
        if self.dialect.prompt_ids:
            vocab, eos_ids = self.config.facts.vocab, self.config.eos_ids
            return self.peer.client(
                self.dialect,
                model=self.model.name,
                window=self.window,
                vocab=vocab,
                eos_ids=eos_ids,
            )
        return self.peer.client(self.dialect, model=self.model.name, amend=self._amend)

    def _amend(self, path: str, body: dict[str, Any]) -> None:
        amend(path, body, window=self.config.window, hosted=self.model.hosted)


class RemoteEngine:
    """See `Engine`.

    Args:
        first_s, idle_s: deadlines to the first and between two tokens.
        variables: the node's environment.
    """

    name: ClassVar[str] = "remote"
    requires: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        first_s: float = FIRST_DEADLINE_S,
        idle_s: float = IDLE_DEADLINE_S,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._first_s, self._idle_s = first_s, idle_s
        self._variables = os.environ if variables is None else variables
        self._record = Record()
        self._served: _Served | None = None
        self._client: OpenAIClient | None = None
        self._capabilities = Capabilities(ids_in=False, ids_out=False, continuation="none")

    @property
    def capabilities(self) -> Capabilities:
        """See `Engine`."""
        return self._capabilities

    # -- life ------------------------------------------------------------------------------------------------------

    async def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Engine`. Asks for the list of models and, where ids may be told, for one token."""
        entry, path = named_entry(config.endpoint, self._variables)
        gate = Gate(allow_private=entry.allow_private)
        peer = Peer(entry=entry, key=key_of(entry, self._variables), gate=gate)
        model = await peer.model(path or entry.theirs(config.model))
        progress(0.5)
        dialect = DIALECTS[entry.dialect or model.kind]
        served = _Served(peer=peer, model=model, dialect=dialect, config=config)
        self._settle(await self._with_ids(served))
        progress(1.0)

    def _settle(self, served: _Served) -> None:
        entry, dialect = served.peer.entry, served.dialect
        ids = dialect.prompt_ids
        self._record = Record(entry.price_per_million_tokens)
        self._served, self._client = served, served.client()
        self._capabilities = Capabilities(
            window=served.window,
            sequences=min(entry.concurrency, served.config.max_sequences),
            ids_in=ids,
            ids_out=ids,
            seed=dialect.seed,
            penalties=dialect.penalties,
            json_schema=dialect.json_schema is not None,
            continuation="coherent" if ids else "none",
            metered=served.peer.metered,
        )
        log.info(REMOTE_LOADED, endpoint=entry.title, dialect=served.kind, ids=ids)

    async def _with_ids(self, served: _Served) -> _Served:
        """Asked in ids, where its kind tells them and it does so when tried; nothing that costs is tried."""
        dialect = IDS.get(served.kind)
        if dialect is None or not served.config.eos_ids:
            return served  # without a tokenizer of ours there are no ids
        asked = dataclasses.replace(served, dialect=dialect)
        if served.peer.metered:
            return asked if served.peer.entry.dialect else served
        client = asked.client()
        try:
            await self._one_token(client, served.config.eos_ids[0])
        except EngineError as error:
            log.info(REMOTE_TELLS_NO_IDS, endpoint=served.peer.entry.title, error=error.message)
            return served
        finally:
            await client.close()
        return asked

    async def _one_token(self, client: OpenAIClient, token: int) -> None:
        sampling = Sampling(max_tokens=1, ignore_eos=True)
        request = EngineRequest(id="ids", prompt_ids=(token,), sampling=sampling)
        async with aclosing(client.generate(request)) as chunks:
            while (await _next(chunks, self._first_s)).finish is None:
                pass

    async def close(self) -> None:
        """See `Engine`."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # -- requests --------------------------------------------------------------------------------------------------

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        """See `Engine`. A hang is an error of this request after `first_s` or `idle_s`; the whole is the caller's to bound."""
        served, client = self._served, self._client
        if served is None or client is None:
            raise EngineError("engine remote is not loaded")
        self._require_sayable(request, served)
        watch = Watch(request.sampling.max_tokens, _now())
        try:
            async with aclosing(client.generate(request)) as chunks:
                while True:
                    chunk = await _next(chunks, self._idle_s if watch.began else self._first_s)
                    watch.saw(chunk, _now())
                    if chunk.finish is not None:
                        self._answered(watch, chunk)
                    yield chunk
                    if chunk.finish is not None:
                        return
        except EngineError as error:
            raise self._record.failed(served.peer.told(error), _now()) from None

    def _require_sayable(self, request: EngineRequest, served: _Served) -> None:
        """What goes wrong before anything was sent does not speak against the endpoint."""
        request_body(request, served.dialect, served.model.name, window=served.window)
        pause_s = self._record.pause_s(_now())
        if pause_s > 0:
            raise RemoteFailed(
                f"{served.peer.entry.title} takes no more requests for {pause_s:.0f} s",
                hint="ask its operator for a higher limit",
                status=429,
                retry_after_s=pause_s,
            )

    def _answered(self, watch: Watch, last: Chunk) -> None:
        if last.finish != "abort":
            tokens = last.usage.completion_tokens if last.usage else watch.tokens
            self._record.answered(watch.ttft_s, tokens, watch.rest_s)

    async def abort(self, request: str) -> None:
        """See `Engine`."""
        if self._client is not None:
            await self._client.abort(request)

    # -- state -----------------------------------------------------------------------------------------------------

    async def stats(self) -> EngineStats:
        """See `Engine`. What waits there is not told."""
        return EngineStats(running=self._client.open if self._client else 0)

    def observed(self) -> Observed:
        """Speed and cost as seen since it was loaded."""
        return self._record.observed()

    def health(self) -> str:
        """See `Engine`. Single failures are those of their requests; many in a row are the endpoint's."""
        return "it is not loaded" if self._client is None else self._record.illness()

    def processes(self) -> tuple[int, ...]:
        """See `Engine`."""
        return ()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _next(chunks: AsyncGenerator[Chunk], limit_s: float) -> Chunk:
    try:
        async with asyncio.timeout(limit_s):
            return await anext(chunks)
    except TimeoutError:
        raise EngineError(f"nothing came for {limit_s:g} s") from None
    except StopAsyncIteration:
        raise EngineError("its answer has no end") from None
