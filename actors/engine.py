"""What an engine is: it turns token ids into token ids. Text, templates, windows and stop strings are the replica's.

An engine that holds the GIL or may crash natively runs in a child process (actors.worker); one that only waits runs
inside the replica. Engines never import Ray, never know slots, and never see each other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from placement.modelspec import ModelFacts

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The cost model's figures that the emulated engine keeps to: t(B) = fixed_s + per_sequence_s * B."""

    fixed_s: float
    per_sequence_s: float
    prefill_tokens_per_s: float
    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One planned shard, as its engine needs to know it.

    Attributes:
        model_path: weights on this node; empty for an engine that needs none.
        window: longest sequence in tokens.
        max_sequences: most sequences decoded at once.
        kv_bytes: memory to reserve for the KV cache.
        threads: compute threads; 0 = the engine's choice.
        eos_ids: token ids that end a text.
        pace: only the emulated engine reads it.
        environment: variables that the engine's process gets, e.g. the one that tells it its devices.
        unset: variables that it must not have, as they would contradict those.
        word_ids: ids that decode to plain words; only the emulated engine reads it.
    """

    model_path: str
    facts: ModelFacts
    device_class: str
    arithmetic: Literal["fast", "exact"]
    window: int
    max_sequences: int
    kv_bytes: int
    threads: int
    eos_ids: tuple[int, ...]
    pace: Pace | None = None
    word_ids: tuple[int, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    unset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy. `max_tokens` is already clamped to the window."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """A sequence to continue: prompt ids (and, when resumed, the ids already emitted) in, new ids out."""

    id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Chunk:
    """The ids of one or more steps, in order; `finish` is set on the last chunk only. End-of-text ids are not in `ids`."""

    ids: tuple[int, ...]
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Load of an engine now: sequences running and waiting inside it, fraction of the KV cache in use."""

    running: int = 0
    waiting: int = 0
    kv_used_ratio: float = 0.0


class Engine(Protocol):
    """The life of an engine: load once, generate many at once, close.

    `generate` raises `EngineCrashed` when the engine died and `EngineError` when this one request failed; closing
    the iterator early aborts the sequence and frees its memory. All methods run on one event loop.
    """

    @property
    def name(self) -> str:
        """The engine's name."""
        ...

    async def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """Loads the model. `progress` takes the done fraction, 0 to 1.

        Raises:
            LoadFailed: with the cause and what to change.
        """

    def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        """Yields chunks until one has `finish`."""

    async def stats(self) -> EngineStats:
        """The load now."""

    def alive(self) -> bool:
        """False once the engine cannot answer any more."""

    async def close(self) -> None:
        """Ends the engine and every process it started. Idempotent, bounded to a few seconds."""
