"""OpenVINO GenAI's continuous batching on the CPU, driven step by step inside a worker process.

Decides how our configuration and sampling are said in the library's terms. The library guards neither window nor memory,
so this does. It must not know requests or text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from placement.layout import stored_dtype
from placement.units import GIB

from ..engine import Capabilities, EngineConfig, EngineStats, FinishReason, Sampling
from ..errors import EngineError, LoadFailed
from ..grammar_schema import unsupported
from ..stepper import Row

BATCHED_TOKENS = 256
"""Most tokens in one step: a step holds the GIL, and 256 keep it short while prompts are read."""

EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
"""All three together make a text independent of its batch and of where it is resumed."""

_MODULE = "openvino_genai"


@dataclass(slots=True)
class _Running:
    handle: Any
    ignore_eos: bool


class OpenVinoStepper:
    """See `Stepper`."""

    name: ClassVar[str] = "openvino"
    requires: ClassVar[tuple[str, ...]] = (_MODULE,)
    environment: ClassVar[str] = ""

    def __init__(self) -> None:
        self._running: dict[int, _Running] = {}
        self._pipeline: Any = None
        self._library: Any = None
        self._tensor: Callable[[tuple[int, ...]], Any] = lambda ids: ids
        self._config: EngineConfig | None = None

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Stepper`. The library reports no progress of its own, so only its stages are told."""
        if not Path(config.model_path).exists():
            raise LoadFailed(
                f"{config.model_path or 'no model path'} does not exist",
                hint="check the model's source on this node",
            )
        import numpy as np
        import openvino
        import openvino_genai

        progress(0.1)
        self._library, self._config = openvino_genai, config
        self._tensor = lambda ids: openvino.Tensor(np.array([ids], dtype=np.int64))
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            config.model_path, _scheduler(openvino_genai, config), "CPU", properties(config)
        )
        progress(1.0)

    def capabilities(self) -> Capabilities:
        """See `Stepper`."""
        assert self._config is not None
        exact = self._config.arithmetic == "exact"
        return Capabilities(
            window=self._config.window,
            sequences=self._config.max_sequences,
            seed=True,
            penalties=True,
            json_schema=True,
            prefix_cache=self._config.tuning.prefix_cache,
            exact=exact,
            numerics=_numerics(self._config) if exact else "",
            continuation="exact" if exact else "coherent",
        )

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        """See `Stepper`."""
        assert self._config is not None
        room = self._config.window - len(prompt_ids)
        if not prompt_ids or room < 1 or sampling.max_tokens < 1:
            raise EngineError(
                f"{len(prompt_ids)} prompt tokens and {sampling.max_tokens} more do not fit"
                f" a window of {self._config.window}"
            )
        if max(prompt_ids) >= self._config.facts.vocab:
            raise EngineError(f"token id {max(prompt_ids)} is not in the vocabulary")
        generation = self._generation(sampling, min(sampling.max_tokens, room))
        if sampling.json_schema and (wrong := unsupported(sampling.json_schema)):
            raise EngineError(wrong)
        try:
            handle = self._pipeline.add_request(sequence, self._tensor(prompt_ids), generation)
        except RuntimeError as error:
            raise EngineError(f"the engine refuses the request: {error}") from None
        self._running[sequence] = _Running(handle, sampling.ignore_eos)

    def _generation(self, sampling: Sampling, max_tokens: int) -> Any:
        assert self._config is not None
        generation = self._library.GenerationConfig()
        generation.max_new_tokens = max_tokens
        generation.ignore_eos = sampling.ignore_eos
        if not sampling.ignore_eos:
            generation.stop_token_ids = set(self._config.eos_ids)
        if self._config.eos_ids:
            generation.eos_token_id = self._config.eos_ids[0]
        if sampling.temperature > 0:
            generation.do_sample = True
            generation.temperature = sampling.temperature
            generation.top_p = sampling.top_p
            generation.rng_seed = sampling.seed
        generation.frequency_penalty = sampling.frequency_penalty
        generation.presence_penalty = sampling.presence_penalty
        if sampling.json_schema:
            schema = self._library.StructuredOutputConfig(json_schema=sampling.json_schema)
            generation.structured_output_config = schema
        return generation

    def abort(self, sequence: int) -> None:
        """See `Stepper`. The library frees the memory in its next step."""
        running = self._running.pop(sequence, None)
        if running is not None:
            running.handle.cancel()

    def busy(self) -> bool:
        """See `Stepper`."""
        return self._pipeline is not None and self._pipeline.has_non_finished_requests()

    def step(self) -> list[Row]:
        """See `Stepper`."""
        self._pipeline.step()
        rows = [row for n, r in self._running.items() if (row := self._row(n, r)) is not None]
        for row in rows:
            if row.finish is not None or row.error:
                del self._running[row.sequence]
        return rows

    def _row(self, sequence: int, running: _Running) -> Row | None:
        """What one sequence got. Reasons and states are compared by name, as the library does not export their types."""
        ids: list[int] = []
        reason = "NONE"
        while running.handle.can_read():
            for output in running.handle.read().values():
                ids += output.generated_ids
                reason = output.finish_reason.name
        if not ids and reason == "NONE":
            return self._gone(sequence, running)
        finish = _FINISHES[reason]
        assert self._config is not None
        if finish == "stop" and ids and ids[-1] in self._config.eos_ids:
            ids.pop()
        return Row(sequence, tuple(ids), finish)

    def _gone(self, sequence: int, running: _Running) -> Row | None:
        status = running.handle.get_status().name
        if status == "RUNNING":
            return None
        return Row(
            sequence, (), error=f"the engine gave the sequence up ({status}): too little KV memory"
        )

    def stats(self) -> EngineStats:
        """See `Stepper`."""
        assert self._config is not None
        live = len(self._running)
        running = min(live, self._config.max_sequences)
        used = self._pipeline.get_metrics().cache_usage / 100 if live else 0.0
        return EngineStats(running=running, waiting=live - running, kv_used_ratio=used)


_FINISHES: dict[str, FinishReason | None] = {
    "NONE": None,
    "STOP": "stop",
    "TOOL_CALL": "stop",
    "LENGTH": "length",
}


def properties(config: EngineConfig) -> dict[str, object]:
    """The device properties for a configuration."""
    threads: dict[str, object] = {"INFERENCE_NUM_THREADS": config.threads} if config.threads else {}
    return threads | (EXACT if config.arithmetic == "exact" else {})


def _numerics(config: EngineConfig) -> str:
    """Of plain weights it computes as others do; what it makes of quantised ones is not what they dequantise to."""
    plain = stored_dtype(config.facts) in ("fp32", "bf16", "fp16")
    return "fp32" if plain else "openvino"


def _scheduler(library: Any, config: EngineConfig) -> Any:
    scheduler = library.SchedulerConfig()
    scheduler.cache_size = max(1, math.ceil(config.kv_bytes / GIB))
    scheduler.max_num_batched_tokens = BATCHED_TOKENS
    scheduler.max_num_seqs = config.max_sequences
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = config.tuning.prefix_cache
    return scheduler
