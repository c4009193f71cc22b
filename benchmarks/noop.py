"""An engine that does nothing and a text that costs nothing, so that only the way of a token is measured.

Benchmarks only. The seed of a request is its pace: milliseconds per token, 0 = as fast as the loop turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, ClassVar

from actors.engine import Capabilities, Chunk, EngineConfig, EngineRequest, EngineStats, Pace
from actors.replica import Replica
from actors.slot import SlotSpec
from actors.wire import Open
from orchestrator.gateway.link import Stream
from orchestrator.routing.pick import ReplicaKey, ReplicaLoad, key_of
from orchestrator.routing.replicas import ModelEntry, RegistryTable, ReplicaEntry
from placement.modelspec import ModelFacts

MODEL = "noop"
WINDOW = 65536
SECRET = "benchmark"
PIECE = " token"
FACTS = ModelFacts(
    parameters=0,
    layers=1,
    hidden=1,
    heads=1,
    kv_heads=1,
    head_dim=1,
    ffn=1,
    vocab=1000,
    window=WINDOW,
    architecture="noop",
)
_CHUNK = Chunk((7,))
_LAST = Chunk((7,), "length")


class NoopEngine:
    """Yields the same token until the limit."""

    name: ClassVar[str] = "noop"
    capabilities: ClassVar[Capabilities] = Capabilities(seed=True)

    async def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """Nothing to load."""

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        """`max_tokens` chunks of one token."""
        pace_s = request.sampling.seed / 1000
        loop = asyncio.get_running_loop()
        due = loop.time()
        for left in range(request.sampling.max_tokens, 0, -1):
            due += pace_s
            await asyncio.sleep(due - loop.time() if pace_s else 0)
            yield _CHUNK if left > 1 else _LAST

    async def stats(self) -> EngineStats:
        """Always idle."""
        return EngineStats()

    async def abort(self, request: str) -> None:
        """Never asked for."""

    def health(self) -> str:
        """Always well."""
        return ""

    def processes(self) -> tuple[int, ...]:
        """None of its own."""
        return ()

    async def close(self) -> None:
        """Nothing to end."""


class NoopText:
    """Every prompt is one token, every token the same word."""

    eos_ids = (0,)
    vocabulary = 1000
    window = WINDOW
    facts = FACTS

    def chat_ids(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """One id."""
        return (1,)

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """One id."""
        return (1,)

    def detokenizer(self) -> NoopText:
        """Itself: there is no state."""
        return self

    def push(self, ids: Sequence[int]) -> str:
        """The word, once per id."""
        return PIECE if len(ids) == 1 else PIECE * len(ids)

    def finish(self) -> str:
        """Nothing is held back."""
        return ""

    def word_ids(self) -> tuple[int, ...]:
        """One id."""
        return (1,)


def a_slot() -> SlotSpec:
    """A slot that admits every stream of the benchmarks."""
    return SlotSpec(
        id=f"{MODEL}/r0",
        model=MODEL,
        source="",
        tokenizer="",
        engine="noop",
        device_class="CPU",
        arithmetic="fast",
        nodes=("here",),
        claims=(),
        handles=(),
        family="cpu",
        threads=1,
        window=WINDOW,
        concurrency=256,
        queue=256,
        kv_bytes=0,
        emulated=False,
        load_s=0,
        pace=Pace(fixed_s=0, per_sequence_s=0, prefill_tokens_per_s=1, load_s=0),
    )


def a_table(port: int) -> RegistryTable:
    """A registry with the one replica."""
    slot = a_slot()
    entry = ReplicaEntry(
        slot=slot.id,
        incarnation="noop",
        model=MODEL,
        engine=slot.engine,
        device_class=slot.device_class,
        node="here",
        host="127.0.0.1",
        port=port,
        pid=0,
        concurrency=slot.concurrency,
        queue=slot.queue,
        window=slot.window,
        state="ready",
    )
    model = ModelEntry(id=MODEL, created=0, emulated=False, window=WINDOW)
    return RegistryTable(version=1, models=(model,), replicas=(entry,))


class InProcess:
    """Upstreams without a wire: the replica's answers go straight into the gateway's streams."""

    state = "ready"
    outstanding = 0

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._table = a_table(1)
        self._loads: dict[ReplicaKey, ReplicaLoad] = {key_of(self._table.replicas[0]): self}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._next = 0

    def table(self) -> RegistryTable:
        """The one replica."""
        return self._table

    def loads(self) -> Mapping[ReplicaKey, ReplicaLoad]:
        """Never busy."""
        return self._loads

    def open(self, key: ReplicaKey, request: Open, silence_s: float) -> Stream:
        """Starts to answer in this process."""
        self._next += 1
        number = self._next
        stream = Stream(self, number, silence_s)
        task = self._replica.answer(request, stream)
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))
        return stream

    def cancel(self, number: int) -> None:
        """Aborts a stream."""
        task = self._tasks.get(number)
        if task is not None:
            task.cancel()

    def credit(self, number: int, count: int) -> None:
        """Nothing is held back."""
