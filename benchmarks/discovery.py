"""Seconds that a full report of this machine takes: all built-in probes, from nothing each time. JSON on standard output.

python benchmarks/discovery.py [--runs 20] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pydantic import TypeAdapter

from actors.host import RealHost
from actors.prober import prober_of_this_node
from actors.report import NodeReport
from actors.versions import code_hash

TARGET_S = 1.0


def timed(call) -> tuple[float, object]:
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def measure(runs: int) -> dict[str, object]:
    first_s, report = timed(lambda: prober_of_this_node(RealHost(), "benchmark").report())
    assert isinstance(report, NodeReport)
    walls, cpus = [], []
    for _ in range(runs):
        cpu = time.process_time()
        wall_s, _report = timed(lambda: prober_of_this_node(RealHost(), "benchmark").report())
        walls.append(wall_s)
        cpus.append(time.process_time() - cpu)
    prober = prober_of_this_node(RealHost(), "benchmark")
    refresh = [timed(prober.refresh)[0] for _ in range(runs)]
    hash_s, _ = timed(lambda: code_hash(Path(__file__).resolve().parent.parent))
    message = TypeAdapter(NodeReport).dump_json(report)
    return {
        "benchmark": "discovery",
        "runs": runs,
        "first_s": round(first_s, 6),
        "report_s": _spread(walls),
        "report_cpu_s": _spread(cpus),
        "refresh_s": _spread(refresh),
        "code_hash_s": round(hash_s, 6),
        "report_bytes": len(message),
        "devices": [d.id for d in report.devices],
        "broken": [b.name for b in report.broken],
        "target_s": TARGET_S,
        "met": max(first_s, *walls) < TARGET_S,
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    return {
        "min": round(min(seconds), 6),
        "median": round(statistics.median(seconds), 6),
        "max": round(max(seconds), 6),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = measure(given.runs)
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
