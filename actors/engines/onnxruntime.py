"""ONNX Runtime with a continuous batch of our own, driven step by step inside a worker process.

Decides how a planned replica becomes a session, a cache and a batch, and what it is capable of. It must not know requests
or text.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..engine import Capabilities, EngineConfig, EngineStats, Sampling
from ..errors import EngineError, LoadFailed
from ..onnx.providers import Provider, choose
from ..worker.room import room_for
from ..worker.stepper import Row

if TYPE_CHECKING:
    from ..onnx.graph import DecoderGraph
    from ..slot_batch import Batch

_FP32 = "shardyard prepare SOURCE --form onnx --dtype fp32"


class OnnxRuntimeStepper:
    """See `Stepper`."""

    name: ClassVar[str] = "onnxruntime"
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx", "numpy")
    environment: ClassVar[str] = ""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._capabilities = Capabilities()
        self._vocab = 0

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Stepper`. Everything about the graph is checked before the native library sees it."""
        from ..onnx.folder import CUSTOM_OPS
        from ..onnx.graph import read_graph
        from ..onnx.session import available_providers

        graph = read_graph(Path(config.model_path), os.environ.get(CUSTOM_OPS, ""))
        check_plan(graph, config)
        provider = choose(config, available_providers())
        exact = provider.exact and (graph.dtype, graph.kv_dtype) == ("fp32", "fp32")
        if config.arithmetic == "exact" and not exact:
            raise LoadFailed(
                f"exact arithmetic needs an fp32 graph on the CPU; {config.model_path} is {graph.dtype}"
                f" with a KV cache in {graph.kv_dtype}, on {provider.name}",
                hint=f"{_FP32}; or allow arithmetic: fast in the spec",
            )
        progress(0.1)
        slots = self._assemble(graph, config, provider, progress)
        self._capabilities = Capabilities(
            window=config.window,
            sequences=slots,
            seed=True,
            penalties=True,
            exact=exact,
            numerics="fp32" if exact else "",
            continuation="exact" if exact else "coherent",
        )
        progress(1.0)

    def _assemble(
        self,
        graph: DecoderGraph,
        config: EngineConfig,
        provider: Provider,
        progress: Callable[[float], None],
    ) -> int:
        """Session, cache and batch; returns how many sequences fit."""
        from ..onnx.kv import KvShape, make_cache
        from ..onnx.runner import Runner
        from ..onnx.session import open_session
        from ..slot_batch import BATCHED_TOKENS, Batch

        session = open_session(graph, config, provider)
        progress(0.8)
        shape = KvShape(
            slots=1 if provider.kv == "whole" else config.max_sequences,
            heads=graph.kv_heads,
            window=config.window,
            values=graph.head_dim or config.facts.head_dim,
            dtype=graph.kv_dtype,
            tensors=2 * len(graph.layers),
        )
        # One whole window always fits, also where the plan counted on a cache of fewer bytes a value.
        budget = max(config.kv_bytes // shape.token_bytes, config.window)
        cache = make_cache(graph, shape, provider, budget)
        self._vocab = graph.vocab or config.facts.vocab
        sizes = {"vocab": self._vocab, "rows": shape.slots, "chunk": BATCHED_TOKENS}
        runner = Runner(session, graph, cache, **sizes)
        runner.prove()
        self._batch = Batch(
            runner,
            cache,
            slots=shape.slots,
            window=config.window,
            budget_tokens=budget,
            vocab=self._vocab,
            eos_ids=config.eos_ids,
        )
        return shape.slots

    def capabilities(self) -> Capabilities:
        """See `Stepper`."""
        return self._capabilities

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        """See `Stepper`."""
        assert self._batch is not None
        room_for(prompt_ids, sampling, window=self._capabilities.window, vocab=self._vocab)
        if sampling.json_schema:
            raise EngineError("the onnxruntime engine cannot hold a text to a JSON schema")
        self._batch.add(sequence, prompt_ids, sampling)

    def abort(self, sequence: int) -> None:
        """See `Stepper`. The slot is free for the next step."""
        if self._batch is not None:
            self._batch.abort(sequence)

    def busy(self) -> bool:
        """See `Stepper`."""
        return self._batch is not None and self._batch.busy()

    def step(self) -> list[Row]:
        """See `Stepper`."""
        assert self._batch is not None
        return self._batch.step()

    def stats(self) -> EngineStats:
        """See `Stepper`."""
        return self._batch.stats() if self._batch is not None else EngineStats()


def check_plan(graph: DecoderGraph, config: EngineConfig) -> None:
    """That the graph is of the planned model and fits the plan.

    Raises:
        LoadFailed: with both figures.
    """
    facts, tuning = config.facts, config.tuning
    if (len(graph.layers), graph.kv_heads) != (facts.layers, facts.kv_heads):
        raise LoadFailed(
            f"{config.model_path} has {len(graph.layers)} layers of {graph.kv_heads} KV heads,"
            f" the model {facts.layers} of {facts.kv_heads}: it is a form of another model",
            hint="make the form of this model: shardyard prepare SOURCE --form onnx",
        )
    if graph.window and config.window > graph.window:
        raise LoadFailed(
            f"the planned window of {config.window} tokens is larger than the graph's {graph.window}",
            hint=f"lower the model's context in the spec to {graph.window}",
        )
    if config.memory_bytes and graph.weights_bytes > config.memory_bytes:
        raise LoadFailed(
            f"the weights of {config.model_path} are {graph.weights_bytes} bytes in {graph.dtype},"
            f" the plan has {config.memory_bytes} for everything",
            hint="plan with this dtype in the spec, or prepare a smaller one: --dtype int4",
        )
    if tuning.kv_dtype and tuning.kv_dtype != graph.kv_dtype:
        raise LoadFailed(
            f"the spec wants a KV cache in {tuning.kv_dtype}, the graph was built with {graph.kv_dtype}",
            hint="leave kv_dtype out, or prepare a form with another dtype",
        )
    if tuning.lora:
        raise LoadFailed(
            "the onnxruntime engine does not load adapters",
            hint="name another engine for them in the spec, e.g. vllm",
        )
