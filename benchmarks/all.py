"""Every benchmark, one after the other, each in a process of its own: JSON into a folder, a summary on standard output.

usage: python -m benchmarks.all [--out FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.children import ROOT

BENCHMARKS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("discovery", (), ("--runs", "5")),
    ("plan", (), ("--runs", "3")),
    ("serving", (), ("--seconds", "0.5", "--rounds", "1")),
    ("engine", ("--cluster",), ("--rounds", "1", "--tokens", "32")),
    ("cluster", (), ("--runs", "1", "--idle-s", "5")),
    ("ray_handles", (), ("--seconds", "0.5", "--rounds", "1")),
)
"""Module, its arguments, and those of a quick look."""

TIMEOUT_S = 900.0
SUMMARY = ("met", "ratios", "handles_to_ours", "first_token_s", "pss_mib", "idle_percent")


def run(module: str, arguments: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Runs one; what it printed on standard error is ours too.

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
    return json.loads(out.read_text(encoding="utf-8"))


def main() -> int:
    """Runs all; a benchmark without a result makes the exit status 1, a missed target does not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    given = parser.parse_args()
    folder = given.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    broken = 0
    for module, usual, quick in BENCHMARKS:
        try:
            result = run(module, (quick if given.quick else usual), folder / f"{module}.json")
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            broken += 1
            print(f"{module}: {error}", flush=True)
            continue
        shown = {key: result[key] for key in SUMMARY if key in result}
        print(f"{module}: {json.dumps(shown)}", flush=True)
    print(f"results in {folder}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
