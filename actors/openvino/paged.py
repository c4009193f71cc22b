"""OpenVINO GenAI's continuous batching, driven step by step: paged KV cache, chunked prefill, many sequences at once.

Runs on processors and, as the library documents it, on Intel's GPUs; no GPU was seen by us. It must not know requests or text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from placement.layout import stored_dtype
from placement.units import GIB

from ..engine import Capabilities, EngineConfig, EngineStats, Sampling
from ..errors import EngineError
from ..worker.stepper import Row
from .device import properties
from .request import FINISHES, asked_tokens, check_model, generation

BATCHED_TOKENS = 256
"""Most tokens in one step: a step holds the GIL, and 256 keep it short while prompts are read."""


@dataclass(slots=True)
class _Running:
    handle: Any
    ignore_eos: bool


class PagedStepper:
    """See `Stepper`."""

    name: ClassVar[str] = "openvino"
    requires: ClassVar[tuple[str, ...]] = ("openvino_genai",)
    environment: ClassVar[str] = ""

    def __init__(self, device: str = "CPU") -> None:
        self._device = device
        self._running: dict[int, _Running] = {}
        self._pipeline: Any = None
        self._library: Any = None
        self._tensor: Callable[[tuple[int, ...]], Any] = lambda ids: ids
        self._config: EngineConfig | None = None

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Stepper`. The library reports no progress of its own, so only its stages are told."""
        check_model(config)
        import numpy as np
        import openvino
        import openvino_genai

        progress(0.1)
        self._library, self._config = openvino_genai, config
        self._tensor = lambda ids: openvino.Tensor(np.array([ids], dtype=np.int64))
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            config.model_path,
            scheduler(openvino_genai, config),
            self._device,
            properties(config, self._device),
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
        most = asked_tokens(self._config, prompt_ids, sampling)
        asked = generation(self._library, self._config, sampling, most)
        try:
            handle = self._pipeline.add_request(sequence, self._tensor(prompt_ids), asked)
        except RuntimeError as error:
            raise EngineError(f"the engine refuses the request: {error}") from None
        self._running[sequence] = _Running(handle, sampling.ignore_eos)

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
        finish = FINISHES[reason]
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


def scheduler(library: Any, config: EngineConfig) -> Any:
    """How the library batches a configuration's sequences, and its KV memory in whole GiB."""
    made = library.SchedulerConfig()
    made.cache_size = max(1, math.ceil(config.kv_bytes / GIB))
    made.max_num_batched_tokens = BATCHED_TOKENS
    made.max_num_seqs = config.max_sequences
    made.dynamic_split_fuse = True
    made.enable_prefix_caching = config.tuning.prefix_cache
    return made


def _numerics(config: EngineConfig) -> str:
    """Of plain weights it computes as others do; what it makes of quantised ones is not what they dequantise to."""
    plain = stored_dtype(config.facts) in ("fp32", "bf16", "fp16")
    return "fp32" if plain else "openvino"
