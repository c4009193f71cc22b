"""What a hundred lives of an engine leave behind: processes, descriptors, threads, files, shared memory, memory.

Benchmarks only. It is counted in this process and, by a variable that every process of a run inherits, among all processes of
the machine.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.engine import Engine, EngineConfig, EngineRequest, Sampling
from actors.orphans import folder_places
from actors.process_tree import everybody, stat_of
from benchmarks.children import ROOT
from placement.modelspec import ModelFacts

MARK = "BENCHMARK_RUN"
"""Variable that names this run in every process of it; servers inherit none whose name begins with ours."""

_TINY = """
import dataclasses, json, sys
from pathlib import Path
from support.tiny_onnx import FACTS, write_tiny_onnx
write_tiny_onnx(Path(sys.argv[1]))
print(json.dumps(dataclasses.asdict(FACTS)))
"""


def tiny_model(folder: Path) -> ModelFacts:
    """The tiny ONNX graph of our tests, written by a process that sees them; returns its figures."""
    done = subprocess.run(
        [sys.executable, "-c", _TINY, str(folder)],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return ModelFacts(**json.loads(done.stdout))


def left() -> dict[str, Any]:
    """What can be left behind, as it is now."""
    gc.collect()
    return {
        "processes": _marked(f"{MARK}={os.environ[MARK]}".encode()),
        "descriptors": _entries("/proc/self/fd"),
        "threads": threading.active_count(),
        "segments": _entries("/dev/shm"),
        "files": _entries(tempfile.gettempdir()),
        "folders": sum(len([*p.glob(f"shardyard-{os.getpid()}-*")]) for p in folder_places()),
        "rss_kib": _rss_kib(),
    }


def _marked(mark: bytes) -> int:
    """Processes of this run, wherever they hang, but for this one."""
    count = 0
    for pid in everybody():
        with contextlib.suppress(OSError):
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            count += pid != os.getpid() and mark in environ and stat_of(pid) is not None
    return count


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def _rss_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


async def cycles(
    make: Callable[[], Engine], config: EngineConfig, count: int, warm: int
) -> dict[str, Any]:
    """Loads, asks for a few tokens and closes, again and again; what is more afterwards than after the first few.

    Args:
        warm: lives before the first count.
    """
    before: dict[str, Any] = {}
    halfway = 0
    began = time.perf_counter()
    for turn in range(warm + count):
        if turn == warm:
            before, began = left(), time.perf_counter()
        if turn == warm + count // 2:
            halfway = left()["rss_kib"]
        await _life(make(), config)
    seconds = time.perf_counter() - began
    after = left()
    grown = {name: after[name] - before[name] for name in before}
    return {
        "cycles": count,
        "cycle_s": round(seconds / count, 3),
        "grown": grown,
        "rss_kib": {"before": before["rss_kib"], "halfway": halfway, "after": after["rss_kib"]},
        "clean": not any(n > 0 for name, n in grown.items() if name != "rss_kib"),
    }


async def _life(engine: Engine, config: EngineConfig) -> None:
    await engine.load(config, lambda _: None)
    sampling = Sampling(max_tokens=4, ignore_eos=True)
    request = EngineRequest(id="tiny", prompt_ids=(11, 12, 13), sampling=sampling)
    async for _ in engine.generate(request):
        pass
    await engine.close()
    assert engine.processes() == ()
