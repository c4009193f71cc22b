"""A quickstart cluster as a user starts it: seconds to the first token by phase, memory of each process, CPU while idle.

The environment is warm, as after the first `make serve`. Memory is PSS: shared pages count in parts, so that the sum is
what the cluster takes from the machine. CPU is per cent of one core over the idle time.

usage: python -m benchmarks.cluster [--runs N] [--idle-s S] [--out FILE] [SPEC]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.children import ROOT, Cluster, cluster
from benchmarks.load import chat_request, connect
from orchestrator import proc_fs
from orchestrator.sockets import free_port

QUICKSTART = ROOT / "examples" / "quickstart" / "app.yaml"
MODEL = "smollm2"
SETTLE_S = 5.0
IDLE_LIMIT_PERCENT = 2.0
OURS = ("controller", "agent", "gateway", "replica", "engine", "up")
PHASES = (
    ("ray", "Ray is up"),
    ("controller_and_gateways", "controller and gateways started"),
    ("nodes", "reported"),
    ("plan", "planned"),
    ("load", "ready at"),
)
"""What `up` prints at the end of each phase, in order."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_ROLES = (
    ("gateway", r"ray::ServeReplica:shardyard-gateway"),
    ("replica", r"ray::ServeReplica:"),
    ("controller", r"ray::_?ControllerHost"),
    ("agent", r"ray::_?NodeAgent"),
    ("serve controller", r"ray::ServeController"),
    ("engine", r"actors\.worker_main"),
    ("gcs", r"gcs_server"),
    ("raylet", r"/raylet/raylet"),
    ("log monitor", r"log_monitor"),
    ("dashboard agent", r"dashboard/agent\.py|ray::DashboardAgent"),
    ("runtime env agent", r"runtime_env/agent|ray::RuntimeEnvAgent"),
    ("dashboard", r"dashboard/dashboard\.py|ray-dashboard|ray::DashboardHead"),
    ("client server", r"ray\.util\.client|ray/util/client"),
    ("autoscaler", r"autoscaler/\S*monitor\.py"),
    ("fork server", r"multiprocessing"),
    ("ray start", r"ray\.scripts\.scripts"),
    ("up", r"orchestrator"),
)


def family(root: int) -> dict[int, str]:
    """A process and all its descendants, with what each of them is."""
    rows = proc_fs.processes()
    found = {root}
    while more := {p for p, row in rows.items() if row.ppid in found} - found:
        found |= more
    return {pid: role(pid) for pid in sorted(found)}


def role(pid: int) -> str:
    """What a process is, by its command line."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return "ended"
    other = re.sub(r"\S*/", "", words)[:60]
    return next((name for name, pattern in _ROLES if re.search(pattern, words)), other)


def pss_bytes(pid: int) -> int:
    """Proportional set size."""
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


async def first_token_s(port: int) -> float:
    """Seconds from a streamed request to its first event."""
    (connection,) = await connect(port, 1)
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 8,
    }
    status = await connection.ask(chat_request(port, body))
    connection.close()
    assert status == 200, status
    return connection.first_event_s


def run(spec: Path, idle_s: float) -> dict[str, Any]:
    """One cluster, from its command to its end; idle only when asked for."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        with cluster([str(spec)], Path(folder) / "state", port) as running:
            phases = dict(_phases(running))
            phases["first_token"] = asyncio.run(first_token_s(port))
            total_s = time.perf_counter() - running.began
            result: dict[str, Any] = {"phases_s": phases, "total_s": total_s}
            if idle_s > 0:
                result["processes"] = idle(running.process.pid, idle_s)
            result["stop_s"] = running.stop()
    return result


def _phases(running: Cluster) -> Iterator[tuple[str, float]]:
    before = 0.0
    for name, text in PHASES:
        at = running.until(text)
        yield name, at - before
        before = at


def idle(root: int, seconds: float) -> list[dict[str, Any]]:
    """Memory and CPU of every process of a cluster that nobody asks anything."""
    time.sleep(SETTLE_S)
    roles = family(root)
    before = {pid: cpu_s(pid) for pid in roles}
    began = time.perf_counter()
    time.sleep(seconds)
    elapsed_s = time.perf_counter() - began
    return [
        {
            "role": name,
            "pid": pid,
            "pss_mib": round(pss_bytes(pid) / 2**20, 1),
            "cpu_percent": round(100 * (cpu_s(pid) - before[pid]) / elapsed_s, 2),
        }
        for pid, name in roles.items()
    ]


def measure(spec: Path, runs: int, idle_s: float) -> dict[str, Any]:
    """Several starts; memory and idle CPU of the last."""
    results = [run(spec, idle_s if n == runs - 1 else 0.0) for n in range(runs)]
    processes = results[-1].get("processes", [])
    names = list(results[0]["phases_s"])
    ours = [p for p in processes if p["role"] in OURS]
    return {
        "benchmark": "cluster",
        "runs": runs,
        "first_token_s": _spread([r["total_s"] for r in results]),
        "phases_s": {n: _spread([r["phases_s"][n] for r in results]) for n in names},
        "stop_s": _spread([r["stop_s"] for r in results]),
        "processes": processes,
        "pss_mib": round(sum(p["pss_mib"] for p in processes), 1),
        "idle_percent": round(sum(p["cpu_percent"] for p in processes), 2),
        "target_idle_percent": IDLE_LIMIT_PERCENT,
        "met": all(p["cpu_percent"] <= IDLE_LIMIT_PERCENT for p in ours),
        "cpus": os.cpu_count(),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 3),
        "median": round(statistics.median(values), 3),
        "max": round(max(values), 3),
    }


def main() -> int:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("spec", nargs="?", type=Path, default=QUICKSTART)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--idle-s", type=float, default=20.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = measure(given.spec.absolute(), given.runs, given.idle_s)
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
