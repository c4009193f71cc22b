"""What it costs to know a node: a whole look at it, a poll of its devices, and the message that says it all. JSON out.

The machines: this one; one whose NVML is a stand-in with 8 or 16 cards (the real nvidia-ml-py reads it, in a child process
whose CPU time counts); a tree of 8 RNGD cards; and every recording with at least 8 devices. A real driver adds its own time
to each call. A poll's budget is 1 % of a core at 1 Hz.

usage: python -m benchmarks.discovery [--runs N] [--polls N] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from actors import stand_in
from actors.engine import EngineConfig
from actors.host import Host, RealHost, RecordedHost
from actors.probe import Found, LiveProbe
from actors.prober import Prober, prober_of_this_node
from actors.report import NodeReport
from actors.standins import furiosa
from actors.versions import code_hash
from actors.worker.engine import WorkerEngine
from placement.modelspec import ModelFacts

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = ROOT / "tests" / "recordings"
MANY = 8
LOOK_S, LOOK_CPU_S, POLL_CPU_S, REPORT_BYTES, START_S = 1.0, 0.3, 0.01, 100_000, 3.0
"""Targets: wall and CPU of a look at 8 accelerators, CPU of a poll of 16, bytes of 64, an engine's process."""


class Machine:
    """One machine to look at."""

    def __init__(self, name: str, host: Host, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.host = host
        self.environment = environment or {}

    def prober(self) -> Prober:
        """All probes, as a node's agent has them."""
        return prober_of_this_node(self.host, "benchmark")


def machines(folder: Path) -> Iterator[Machine]:
    yield Machine("this machine", RealHost())
    if not stand_in.missing("nvidia"):
        for count in (8, 16):
            place = folder / f"nvml-{count}"
            place.mkdir()
            made = stand_in.stand_in("nvidia", place, "NVIDIA_H100_80G", count)
            yield Machine(f"NVML stand-in, {count} cards", RealHost(), dict(made.environment))
    tree = furiosa.write(folder / "rngd", furiosa.cards(8))
    yield Machine("RNGD tree, 8 cards", RealHost(root=tree))
    for place in sorted(RECORDINGS.glob("*/*/host.toml")):
        host = RecordedHost(place.parent)
        if len(Machine("", host).prober().report().devices) >= MANY:
            yield Machine(f"recording {place.parent.parent.name}/{place.parent.name}", host)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """The variables while the block runs."""
    before = dict(os.environ)
    os.environ.update(stand_in.with_paths(before, values))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def look(machine: Machine, runs: int) -> dict[str, Any]:
    """Whole looks from nothing: children included, which end with each."""
    walls, cpus, devices = [], [], 0
    with environment(machine.environment):
        for _ in range(runs):
            host = (
                RealHost(machine.host.root) if isinstance(machine.host, RealHost) else machine.host
            )
            fresh = Machine(machine.name, host)
            before, began = _cpu(), time.perf_counter()
            devices = len(fresh.prober().report().devices)
            walls.append(time.perf_counter() - began)
            if isinstance(host, RealHost):
                host.libraries.close()
            cpus.append(_cpu() - before)
    return {"devices": devices, "wall_s": _spread(walls), "cpu_s": _spread(cpus)}


def poll(machine: Machine, polls: int) -> dict[str, Any]:
    """What every probe's poll costs, all of them one after the other, without the seconds between."""
    host = machine.host
    with environment(machine.environment):
        prober = machine.prober()
        report = prober.refresh()
        polled = [p for p in prober.probes if isinstance(p, LiveProbe)]
        found = {p.name: p.probe(host, report.node) for p in polled}
        before = _cpu(children=_children())
        for _ in range(polls):
            for probe in polled:
                answer = found[probe.name]
                if isinstance(answer, Found):
                    probe.poll(host, answer)
        cpu_s = (_cpu(children=_children()) - before) / polls
        if isinstance(host, RealHost):
            host.libraries.close()
    return {"devices": len(report.devices), "cpu_s": round(cpu_s, 6), "share": round(cpu_s, 6)}


def message() -> dict[str, Any]:
    """A node of 64 cards, with links and readings, as one message."""
    with tempfile.TemporaryDirectory() as folder:
        made = stand_in.stand_in("nvidia", Path(folder), "NVIDIA_H100_80G", 64)
        with environment(dict(made.environment)):
            host = RealHost()
            report = Machine("64", host).prober().report()
            host.libraries.close()
    text = TypeAdapter(NodeReport).dump_json(report)
    return {"devices": len(report.devices), "bytes": len(text)}


def engine_start(runs: int) -> dict[str, Any]:
    """From asking for an engine to its process having loaded nothing: our part of the start of every engine."""
    return {"wall_s": _spread([asyncio.run(_start()) for _ in range(runs)])}


async def _start() -> float:
    engine = WorkerEngine("nothing", "benchmarks.discovery:Nothing")
    began = time.perf_counter()
    await engine.load(CONFIG, lambda _ratio: None)
    seconds = time.perf_counter() - began
    await engine.close()
    return seconds


class Nothing:
    """An engine that loads nothing."""

    name = "nothing"
    requires = ()

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """Done at once."""
        progress(1.0)

    def busy(self) -> bool:
        """Never."""
        return False


CONFIG = EngineConfig(
    model_path="",
    facts=ModelFacts(
        parameters=1.0,
        layers=1,
        hidden=1,
        heads=1,
        kv_heads=1,
        head_dim=1,
        ffn=1,
        vocab=1,
        architecture="llama",
        window=1,
    ),
    device_class="CPU",
    arithmetic="fast",
    window=1,
    max_sequences=1,
    kv_bytes=0,
    threads=1,
    eos_ids=(),
)


def measure(runs: int, polls: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        known = list(machines(Path(folder)))
        looks = {machine.name: look(machine, runs) for machine in known}
        polled = {
            machine.name: poll(machine, polls)
            for machine in known
            if isinstance(machine.host, RealHost)
        }
    report = {} if stand_in.missing("nvidia") else message()
    start = engine_start(runs)
    began = time.perf_counter()
    code_hash(ROOT)
    return {
        "benchmark": "discovery",
        "runs": runs,
        "looks": looks,
        "polls": polled,
        "report_64": report,
        "engine_start": start,
        "code_hash_s": round(time.perf_counter() - began, 6),
        "targets": {
            "look_s": LOOK_S,
            "look_cpu_s": LOOK_CPU_S,
            "poll_cpu_s": POLL_CPU_S,
            "report_bytes": REPORT_BYTES,
            "engine_start_s": START_S,
        },
        "met": all(
            (
                all(found["wall_s"]["max"] < LOOK_S for found in looks.values()),
                all(found["cpu_s"]["median"] < LOOK_CPU_S for found in looks.values()),
                all(found["cpu_s"] < POLL_CPU_S for found in polled.values()),
                report.get("bytes", 0) < REPORT_BYTES,
                start["wall_s"]["max"] < START_S,
            )
        ),
    }


def _cpu(children: float = 0.0) -> float:
    """CPU seconds of this process, of children that have ended, and of those that run."""
    own, ended = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return children + sum(r.ru_utime + r.ru_stime for r in (own, ended))


def _children() -> float:
    """CPU seconds of the children that run, in ticks of 10 ms."""
    ticks = 0
    for line in Path("/proc/self/task").iterdir():
        # A thread or a child may end between listing and reading.
        with suppress(FileNotFoundError, ProcessLookupError):
            for pid in (line / "children").read_text().split():
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _spread(seconds: list[float]) -> dict[str, float]:
    return {
        "min": round(min(seconds), 6),
        "median": round(statistics.median(seconds), 6),
        "max": round(max(seconds), 6),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--polls", type=int, default=200)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = measure(given.runs, given.polls)
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
