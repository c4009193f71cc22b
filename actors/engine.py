"""What an engine is: it turns token ids into token ids. Text, templates, windows and stop strings are the replica's.

An engine that holds the GIL or may crash natively runs in a child process (actors.worker.engine), a vendor's server in a process
tree of its own (actors.server.engine); one that only waits runs inside the replica. Engines never import Ray, never know slots, and
never see each other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from placement.devices import Dtype
from placement.modelspec import ModelFacts
from placement.tuning import PLAIN, Tuning

FinishReason = Literal["stop", "length", "abort"]
Continuation = Literal["exact", "seeded", "coherent", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a loaded engine can do; routers send it nothing else.

    Attributes:
        window: longest sequence in tokens; 0 = not known.
        sequences: most sequences at once; 0 = not known.
        batch_buckets, length_buckets: compiled sizes; each sequence runs in the smallest that holds it. Empty = any size.
        ids_in, ids_out: takes prompts as token ids; tells the ids that it generates.
        seed: a seed makes sampling repeatable.
        penalties: frequency and presence penalties.
        json_schema: can be held to a JSON schema.
        logprobs: tells log probabilities.
        lora: names of loaded adapters.
        prefix_cache: beginnings that were read before are not read again.
        exact: greedy text depends neither on the batch nor on where it is resumed.
        continuation: how a text that broke off elsewhere goes on here: `exact` = as if it had not broken off, when greedy;
            `seeded` = as from the start with the same seed, repeated on an engine of the same kind; `coherent` = fluently, but not the same;
            `none` = not at all.
        numerics: name of the arithmetic: two exact replicas of a model whose names are equal give the same text.
        metered: each token is paid for, so nothing is generated just to see that it is well.
    """

    window: int = 0
    sequences: int = 0
    batch_buckets: tuple[int, ...] = ()
    length_buckets: tuple[int, ...] = ()
    ids_in: bool = True
    ids_out: bool = True
    seed: bool = False
    penalties: bool = False
    json_schema: bool = False
    logprobs: bool = False
    lora: tuple[str, ...] = ()
    prefix_cache: bool = False
    exact: bool = False
    continuation: Continuation = "coherent"
    numerics: str = ""
    metered: bool = False


UNKNOWN = Capabilities()
"""Of an engine that has not said anything yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The cost model's figures that the emulated engine keeps to: t(B) = fixed_s + per_sequence_s * B."""

    fixed_s: float
    per_sequence_s: float
    prefill_tokens_per_s: float
    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlace:
    """One pipeline stage of a planned shard: where it runs and which layers, [first, end), it holds.

    Attributes:
        host: address of its node.
        handles: launch handles of its devices on that node.
    """

    host: str
    handles: tuple[str, ...]
    layers: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One planned shard, as its engine needs to know it.

    Attributes:
        model: name that clients use.
        model_path: weights on this node, in a form that the engine reads; empty for an engine that needs none.
        dtype: of the weights, as planned; None = as they are stored.
        window: longest sequence in tokens.
        max_sequences: most sequences decoded at once.
        kv_bytes: memory to reserve for the KV cache, of all devices together.
        memory_bytes: planned on each device, or of a CPU's node, for weights, KV cache and the engine itself; 0 = not known.
        threads: compute threads; 0 = the engine's choice.
        cores: logical CPUs that its process is bound to; empty = any.
        eos_ids: token ids that end a text.
        family, handles: kind and launch handles of the first stage's devices, e.g. `nvidia` and UUIDs.
        tp: devices that share each layer.
        stages: of a pipeline, the first included; empty = everything on the first stage's devices.
        meeting_port: on the first stage's node, where the processes of an engine that spans nodes find each other; 0 = it spans none.
        source: of the model, as in the spec; below `endpoint` it ends with the model's name there.
        endpoint: address of a remote server.
        artifact: compiled model on this node, for an engine that needs one.
        log_path: file that the engine's process may write its output to; empty = keep the last lines only.
        owner: marks the engine's processes, so that they are found when whoever started them was killed.
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
    model: str = ""
    source: str = ""
    dtype: Dtype | None = None
    memory_bytes: int = 0
    cores: tuple[int, ...] = ()
    family: str = ""
    handles: tuple[str, ...] = ()
    tp: int = 1
    stages: tuple[StagePlace, ...] = ()
    meeting_port: int = 0
    endpoint: str = ""
    artifact: str = ""
    tuning: Tuning = PLAIN
    log_path: str = ""
    owner: str = ""
    pace: Pace | None = None
    word_ids: tuple[int, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    unset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy. `max_tokens` is already clamped to the window.

    Attributes:
        seed: always set; engines without one ignore it.
        json_schema: the text must be JSON of this schema (as JSON text); empty = any text.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    ignore_eos: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    json_schema: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """A sequence to continue: prompt ids (and, when resumed, the ids already emitted) in, new ids out.

    Attributes:
        prompt_ids: empty only for an engine that does not take ids.
        messages, prompt: the chat or the text as the client wrote it; only for an engine that does not take ids.
        lora: name of an adapter; empty = the model itself.
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    messages: tuple[Mapping[str, Any], ...] | None = None
    prompt: str | None = None
    lora: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as counted by an engine that counts for itself."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The ids of one or more steps, in order; `finish` is set on the last chunk only. End-of-text ids are not in `ids`.

    Attributes:
        text: of an engine that tells no ids; None = the replica makes the text of the ids.
        usage: on the last chunk, of an engine that tells no ids.
    """

    ids: tuple[int, ...]
    finish: FinishReason | None = None
    text: str | None = None
    usage: Usage | None = None


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

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; settled once it is loaded."""
        ...

    async def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """Loads the model. `progress` takes the done fraction, 0 to 1, never falling, 1 at the end.

        Raises:
            LoadFailed: with the cause and what to change; nothing of the engine is left then.
        """

    def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        """Yields chunks until one has `finish`."""

    async def abort(self, request: str) -> None:
        """Ends the sequence of that request id with `finish` abort; an unknown id is fine."""

    async def stats(self) -> EngineStats:
        """The load now."""

    def health(self) -> str:
        """Why it cannot answer any more; empty while it can."""

    def processes(self) -> tuple[int, ...]:
        """Ids of the processes that it consists of now, so that their memory can be watched; empty = it has none of its own."""

    async def close(self) -> None:
        """Ends the engine and every process it started. Idempotent, bounded to a few seconds."""
