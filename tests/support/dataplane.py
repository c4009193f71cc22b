"""A gateway and its replicas in one process on loopback, without Ray; engines and text that tests can steer."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import httpx

from actors.engine import Capabilities, Chunk, EngineConfig, EngineRequest, EngineStats, Pace
from actors.errors import EngineCrashed, Refused
from actors.replica import Replica, ReplicaConfig
from actors.slot import SlotSpec
from orchestrator.gateway.app import Gateway, GatewayConfig
from orchestrator.gateway.serving import serving
from orchestrator.gateway.upstream import ReplicaUpstreams
from orchestrator.http_server import bind
from orchestrator.routing.registry import StaticRegistry
from orchestrator.routing.replicas import ModelEntry, RegistryTable, ReplicaEntry
from placement.modelspec import ModelFacts

SECRET = "frames"
MODEL = "tiny"
WINDOW = 4096
EOS = 256
FACTS = ModelFacts(
    parameters=1e6,
    layers=1,
    hidden=8,
    heads=1,
    kv_heads=1,
    head_dim=8,
    ffn=8,
    vocab=257,
    window=WINDOW,
    architecture="bytes",
)
PACE = Pace(fixed_s=0.0, per_sequence_s=0.0, prefill_tokens_per_s=1e9, load_s=0.0)


class ByteText:
    """A text model whose tokens are the bytes of UTF-8."""

    eos_ids = (EOS,)
    vocabulary = 257
    window = WINDOW
    facts = FACTS

    def chat_ids(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        lines = []
        for index, message in enumerate(messages):
            content = message.get("content")
            if isinstance(content, list):
                content = "".join(_text_of(part, index) for part in content)
            lines.append(f"{message['role']}: {content}\n")
        return tuple("".join(lines).encode())

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def detokenizer(self) -> ByteDetokenizer:
        return ByteDetokenizer()

    def word_ids(self) -> tuple[int, ...]:
        return tuple(range(97, 123))


def _text_of(part: Mapping[str, Any], index: int) -> str:
    if part.get("type") != "text":
        raise Refused(
            f"content of type {part.get('type')} is not supported",
            reason="unsupported_parameter",
            param=f"messages[{index}].content",
        )
    return str(part["text"])


class ByteDetokenizer:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        return self._decoder.decode(bytes(ids))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


ABLE = Capabilities(seed=True)


class ScriptedEngine:
    """Says `reply`, one byte per chunk; with `paced` every chunk waits for a `step`.

    Attributes:
        requests: what it was asked, in order; `aborted` the ids of those that were given up.
        window: of its replica; 0 = the usual one.
    """

    name: ClassVar[str] = "scripted"

    def __init__(
        self,
        reply: str = "Hello!",
        *,
        paced: bool = False,
        broken: str = "",
        capabilities: Capabilities = ABLE,
        window: int = 0,
    ) -> None:
        self.capabilities = capabilities
        self.window = window
        self.reply = reply.encode()
        self.requests: list[EngineRequest] = []
        self.aborted: list[str] = []
        self.config: EngineConfig | None = None
        self._paced = paced
        self._broken = broken
        self._dead = ""
        self._steps = 0
        self._stepped = asyncio.Condition()
        self._changed = asyncio.Condition()
        self.loadable = asyncio.Event()
        self.loadable.set()

    async def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        await self.loadable.wait()
        progress(0.5)
        self.config = config
        if self._broken:
            raise RuntimeError(self._broken)

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        proof = request.id == "proof"
        if not proof:
            self.requests.append(request)
            await self._tell()
        sent = 0
        limit = min(len(self.reply), request.sampling.max_tokens)
        try:
            for number in range(limit):
                if self._paced and not proof:
                    await self._wait_for_step(number)
                if self._dead:
                    raise EngineCrashed(self._dead)
                last = number == limit - 1
                sent += 1
                yield Chunk((self.reply[number],), _finish(last, len(self.reply) > limit))
        finally:
            if sent < limit:
                self.aborted.append(request.id)
                await self._tell()

    async def abort(self, request: str) -> None:
        raise NotImplementedError

    async def stats(self) -> EngineStats:
        return EngineStats()

    def health(self) -> str:
        return self._dead

    def processes(self) -> tuple[int, ...]:
        return ()

    async def close(self) -> None:
        self._dead = self._dead or "closed"

    async def step(self, count: int = 1) -> None:
        """Lets every request say `count` more bytes."""
        async with self._stepped:
            self._steps += count
            self._stepped.notify_all()

    async def crash(self) -> None:
        """Every running request fails; the engine stays dead."""
        self._dead = "killed by a test"
        await self.step(0)

    async def until(self, condition: Callable[[ScriptedEngine], bool]) -> None:
        """Waits for requests or aborts."""
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def _wait_for_step(self, number: int) -> None:
        async with self._stepped:
            await self._stepped.wait_for(lambda: self._steps > number or bool(self._dead))

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _finish(last: bool, cut: bool) -> Any:
    if not last:
        return None
    return "length" if cut else "stop"


def a_slot(name: str = f"{MODEL}/r0", **changes: Any) -> SlotSpec:
    slot = SlotSpec(
        id=name,
        model=MODEL,
        source="package://tiny",
        tokenizer="package://tiny",
        engine="scripted",
        device_class="CPU",
        arithmetic="fast",
        nodes=("n",),
        claims=(),
        family="",
        handles=(),
        threads=1,
        window=WINDOW,
        concurrency=8,
        queue=8,
        kv_bytes=0,
        emulated=False,
        load_s=0.0,
        pace=PACE,
    )
    return replace(slot, **changes)


def an_entry(slot: SlotSpec, port: int, **changes: Any) -> ReplicaEntry:
    entry = ReplicaEntry(
        slot=slot.id,
        incarnation=f"{slot.id}#1",
        model=slot.model,
        engine=slot.engine,
        device_class=slot.device_class,
        node="n",
        host="127.0.0.1",
        port=port,
        pid=1,
        concurrency=slot.concurrency,
        queue=slot.queue,
        window=slot.window,
        state="ready",
        emulated=slot.emulated,
    )
    return replace(entry, **changes)


def a_table(*entries: ReplicaEntry, version: int = 1, problem: str = "") -> RegistryTable:
    model = ModelEntry(id=MODEL, created=1, emulated=False, window=WINDOW, problem=problem)
    return RegistryTable(version=version, models=(model,), replicas=entries)


def a_replica(slot: SlotSpec, engine: ScriptedEngine, on_change: Any = None) -> Replica:
    config = ReplicaConfig(slot=slot, incarnation=f"{slot.id}#1", secret=SECRET)
    return Replica(config, engine, ByteText, on_change or (lambda: None))


@dataclass
class DataPlane:
    """What runs, and a client of it."""

    gateway: Gateway
    upstreams: ReplicaUpstreams
    registry: StaticRegistry
    replicas: list[Replica]
    engines: list[ScriptedEngine]
    entries: list[ReplicaEntry]
    client: httpx.AsyncClient
    port: int

    async def chat(self, text: str = "hi", **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=chat_body(text, **fields))

    def metric(self, name: str, **labels: str) -> float:
        return self.gateway.metrics.registry.get_sample_value(name, labels) or 0.0


def chat_body(text: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def events_of(body: str) -> list[Any]:
    """The data of each event: parsed, or the word [DONE]."""
    datas = [line[6:] for line in body.split("\n") if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def text_of(events: Sequence[Any]) -> str:
    """The concatenated deltas of a chat stream."""
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Returns when the condition holds; looks again every few milliseconds."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        while not condition():
            looked = loop.create_future()
            loop.call_later(0.003, looked.set_result, None)
            await looked


@asynccontextmanager
async def dataplane(
    *engines: ScriptedEngine,
    wait: bool = True,
    slot: Mapping[str, Any] | None = None,
    **config: Any,
) -> AsyncIterator[DataPlane]:
    """One replica per engine behind one gateway; ready when the block begins, unless told not to wait."""
    slots = [
        a_slot(f"{MODEL}/r{k}", **{"window": engine.window or WINDOW} | dict(slot or {}))
        for k, engine in enumerate(engines)
    ]
    replicas = [a_replica(s, e) for s, e in zip(slots, engines, strict=True)]
    ports = [await replica.start() for replica in replicas]
    entries = [
        an_entry(s, p, window=e.window or s.window, capabilities=e.capabilities)
        for s, p, e in zip(slots, ports, engines, strict=True)
    ]
    registry = StaticRegistry(a_table(*entries))
    upstreams = ReplicaUpstreams(registry, secret=SECRET, gateway="g0")
    gateway = Gateway(GatewayConfig(version="1", **config), upstreams)
    listener = bind("127.0.0.1", 0, reuse_port=False)
    port = listener.getsockname()[1]
    async with (
        serving(gateway, upstreams, listener, drain_s=1),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        if wait:
            await until(lambda: all(u.state == "ready" for u in upstreams.loads().values()))
        yield DataPlane(
            gateway, upstreams, registry, replicas, list(engines), entries, client, port
        )
    for replica in replicas:
        await replica.close()
