"""The `onnxruntime` engine's own loop against what the memory gives, and how it scales with the batch.

One run, one thread, CPU time: the machine's read bandwidth, decode steps at several batch sizes and prompts take turns, and
the ratios are of the least disturbed of each. At batch 1 a step reads every weight once, so the roofline is the weights'
bytes over the bandwidth. Prompts are made of ids, so no tokenizer is needed.

usage: python -m benchmarks.engines_onnx FORM [--rounds N] [--steps N] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from actors.engine import EngineConfig, Sampling
from actors.engines.onnxruntime import OnnxRuntimeStepper
from actors.onnx_graph import DecoderGraph, read_graph
from placement.modelspec import ModelFacts

BATCHES = (1, 2, 4, 8, 16, 32)
PROMPT = 36
PREFILL = 512
WINDOW = 2048
BANDWIDTH_BYTES = 256 << 20
TARGET = 0.9


def loaded(form: Path, graph: DecoderGraph) -> OnnxRuntimeStepper:
    """The engine on one thread, with room for the largest batch."""
    facts = ModelFacts(
        parameters=1e9, layers=len(graph.layers), hidden=1, heads=1, kv_heads=graph.kv_heads,
        head_dim=graph.head_dim, ffn=1, vocab=graph.vocab, window=graph.window, architecture="",
    )  # fmt: skip
    stepper = OnnxRuntimeStepper()
    config = EngineConfig(
        model_path=str(form), facts=facts, device_class="CPU", arithmetic="fast",
        window=min(WINDOW, graph.window), max_sequences=max(BATCHES), kv_bytes=1 << 40, threads=1,
        eos_ids=(),
    )  # fmt: skip
    stepper.load(config, lambda _: None)
    return stepper


def read_per_token(graph: DecoderGraph) -> int:
    """Bytes of weights that a step reads: all but the graph itself and the table of rotary angles."""
    angles = graph.window * graph.head_dim * 4
    return graph.weights_bytes - len(graph.data) - angles


def cpu_s(work: Callable[[], object]) -> float:
    """CPU time of this process for something."""
    began = time.process_time()
    work()
    return time.process_time() - began


def bandwidth(buffer: np.ndarray[Any, Any]) -> float:
    """Bytes per CPU-second that one thread reads, by the faster of two plain reductions."""
    return buffer.nbytes / min(cpu_s(buffer.sum), cpu_s(buffer.max))


def decode(stepper: OnnxRuntimeStepper, batch: int, steps: int) -> float:
    """CPU seconds of the fastest of some decode steps."""
    random = np.random.default_rng(batch)
    for n in range(batch):
        ids = tuple(int(i) for i in random.integers(100, 1000, PROMPT))
        stepper.add(n, ids, Sampling(max_tokens=WINDOW, ignore_eos=True))
    while len(stepper.step()) < batch:
        pass
    best = min(cpu_s(stepper.step) for _ in range(steps))
    for n in range(batch):
        stepper.abort(n)
    return best


def prefill(stepper: OnnxRuntimeStepper) -> float:
    """Prompt tokens per CPU-second."""
    stepper.add(0, tuple(range(100, 100 + PREFILL)), Sampling(max_tokens=1))

    def work() -> None:
        while stepper.busy():
            stepper.step()

    return PREFILL / cpu_s(work)


def abort_steps(stepper: OnnxRuntimeStepper) -> int:
    """Steps from an abort in a full batch until one who waited has its first id."""
    for n in range(max(BATCHES) + 1):
        stepper.add(n, (100, 101, 102), Sampling(max_tokens=WINDOW, ignore_eos=True))
    while stepper.stats().running < max(BATCHES):
        stepper.step()
    stepper.abort(0)
    steps = 1
    while max(BATCHES) not in {row.sequence for row in stepper.step()}:
        steps += 1
    for n in range(max(BATCHES) + 1):
        stepper.abort(n)
    return steps


def measure(form: Path, rounds: int, steps: int) -> dict[str, Any]:
    """All figures; everything takes turns, round by round."""
    graph = read_graph(form)
    stepper = loaded(form, graph)
    buffer = np.ones(BANDWIDTH_BYTES // 4, np.float32)
    reads: list[float] = []
    prompts: list[float] = []
    times: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(rounds):
        for batch in BATCHES:
            reads.append(bandwidth(buffer))
            times[batch].append(decode(stepper, batch, steps))
        prompts.append(prefill(stepper))
    best = {batch: min(seconds) for batch, seconds in times.items()}
    roofline_s = read_per_token(graph) / max(reads)
    slope, fixed = np.polyfit(list(best), list(best.values()), 1)
    ratio = roofline_s / best[1]
    return {
        "benchmark": "engines_onnx",
        "form": form.name,
        "dtype": graph.dtype,
        "bandwidth_gb_per_s": {"median": statistics.median(reads) / 1e9, "max": max(reads) / 1e9},
        "read_bytes_per_token": read_per_token(graph),
        "step_ms": {str(batch): round(1e3 * seconds, 2) for batch, seconds in best.items()},
        "fit_ms": {
            "fixed": round(1e3 * float(fixed), 2),
            "per_sequence": round(1e3 * float(slope), 2),
        },
        "tokens_per_s_over_batch_1": {
            str(batch): round(batch * best[1] / seconds, 2) for batch, seconds in best.items()
        },
        "prefill_tokens_per_s": round(max(prompts), 1),
        "abort_frees_slot_after_steps": abort_steps(stepper),
        "roofline_ratio": round(ratio, 3),
        "target": TARGET if graph.dtype == "fp32" else None,
        "met": ratio >= TARGET or graph.dtype != "fp32",
        "rounds": rounds,
        "load": os.getloadavg()[0],
    }


def main() -> int:
    """Measures one form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("form", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = measure(given.form, given.rounds, given.steps)
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
