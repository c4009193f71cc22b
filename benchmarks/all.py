"""Every benchmark, one after the other, each in a process of its own: JSON into a folder, a summary on standard output.

Those that print one JSON object a line become one document with these `lines`; Helix's cases run where their folder is.

usage: python -m benchmarks.all [--out FOLDER] [--quick] [--helix FOLDER]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.children import ROOT

CARRIERS_QUICK = (
    "--engines",
    "openvino,onnxruntime,stand-in",
    "--rounds",
    "1",
    "--tokens",
    "24",
    "--cycles",
    "10",
)
BENCHMARKS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("discovery", (), ("--runs", "5")),
    ("plan", (), ("--runs", "3")),
    ("serving", (), ("--seconds", "0.5", "--rounds", "1")),
    ("engine", ("--cluster",), ("--rounds", "1", "--tokens", "32")),
    ("engines_onnx", (), ("--rounds", "1", "--steps", "4")),
    ("carriers", ("--rounds", "3"), CARRIERS_QUICK),
    ("cluster", (), ("--runs", "1", "--idle-s", "5")),
    ("ray_handles", (), ("--seconds", "0.5", "--rounds", "1")),
)
"""Module, its arguments, and those of a quick look."""

LINES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("placement_62", ("placement", "--devices", "62", "--models", "10")),
    ("placement_1022", ("placement", "--devices", "1022", "--models", "150", "--lose-nodes")),
    ("placement_10016", ("placement", "--devices", "10016", "--models", "1000")),
    ("placement_pools", ("placement", "--pools", "192")),
)
"""Name, module and its arguments, of those that print lines; a quick look runs the first."""

TIMEOUT_S = 1800.0
SUMMARY = (
    "met", "left_out", "ratios", "roofline", "abort_ms", "start_added_s", "grown", "handles_to_ours",
    "first_token_s", "pss_mib", "idle_percent",
)  # fmt: skip


def run(module: str, arguments: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Runs one and returns what is shown of it; what it printed on standard error is ours too.

    Raises:
        RuntimeError: it wrote no result.
    """
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--out", str(out)]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, cwd=ROOT, timeout=TIMEOUT_S, check=False
    )
    if not out.exists():
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode} and no result")
    result = json.loads(out.read_text(encoding="utf-8"))
    return {key: result[key] for key in SUMMARY if key in result}


def run_lines(name: str, command: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Runs one that prints lines, and sums them up.

    Raises:
        RuntimeError: it failed, or printed none.
    """
    full = [sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]]
    done = subprocess.run(
        full, stdout=subprocess.PIPE, cwd=ROOT, timeout=TIMEOUT_S, check=False, text=True
    )
    if done.returncode or not done.stdout:
        raise RuntimeError(f"{' '.join(full)} ended with {done.returncode}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    text = json.dumps({"benchmark": name, "lines": lines}, indent=2)
    out.write_text(text + "\n", encoding="utf-8")
    gaps = [line["gap"] for line in lines if line.get("gap") is not None]
    return {
        "lines": len(lines),
        "most_cpu_s": max(line["cpu_s"] for line in lines),
        **({"largest_gap": max(gaps)} if gaps else {}),
    }


def _chosen(given: argparse.Namespace) -> list[tuple[str, Callable[[Path], dict[str, Any]]]]:
    """What to run, by name: a function of the file to write that returns what is shown."""
    chosen: list[tuple[str, Callable[[Path], dict[str, Any]]]] = [
        (module, partial(run, module, quick if given.quick else usual))
        for module, usual, quick in BENCHMARKS
    ]
    lines = LINES[:1] if given.quick else LINES
    if given.helix.is_dir():
        lines += (("helix", ("helix", str(given.helix.absolute()))),)
    else:
        print(f"helix: left out, there is no folder {given.helix}")
    return [*chosen, *((name, partial(run_lines, name, command)) for name, command in lines)]


def main() -> int:
    """Runs all; a benchmark without a result makes the exit status 1, a missed target does not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--helix", type=Path, default=ROOT.parent / "shared" / "helix")
    given = parser.parse_args()
    folder = given.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    broken = 0
    for name, measure in _chosen(given):
        try:
            shown = measure(folder / f"{name}.json")
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            broken += 1
            print(f"{name}: {error}", flush=True)
            continue
        print(f"{name}: {json.dumps(shown)}", flush=True)
    print(f"results in {folder}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
