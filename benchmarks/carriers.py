"""What the two carriers of engines cost: streams, starts, aborts, and what a hundred lives leave behind.

Streams: a replica around an engine beside the bare engine, in turns, without a gateway. A worker's engine stands beside the same
stepper in a plain loop, a server beside a raw client of its socket. Engines that cannot start here are left out, and named.

usage: python -m benchmarks.carriers [--engines A,B] [--parts streams,abort,start,cycles] [--rounds N] [--tokens N]
           [--cycles N] [--form ENGINE=PATH] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import uvloop

from actors.engine import EngineConfig
from actors.plugins import available_engines
from benchmarks.carrier_cases import (
    SERVERS,
    STAND_IN,
    WORKERS,
    a_config,
    a_text,
    an_engine,
    left_out,
    model_path,
)
from benchmarks.carrier_cycles import MARK, cycles, tiny_model
from benchmarks.carrier_life import aborts, starts
from benchmarks.carrier_streams import run_bare, sides, throughput
from benchmarks.children import children, questions, say
from benchmarks.engine import ready_replica

MODULE = "benchmarks.carriers"
PARTS = ("streams", "abort", "start", "cycles")
TARGETS = {"worker": 0.95, "server": 0.92, "abort_ms": 100.0, "start_s": 1.0}
WARM_CYCLES = 5


async def run_replica(name: str, path: str) -> None:
    """A child with a replica; asked, it aborts requests of its engine."""
    engine = an_engine(name)
    replica, port = await ready_replica(engine, path)
    say({"port": port, "processes": engine.processes()})
    async for question in questions():
        say(await aborts(engine, question["aborts"]))
    await replica.close()


def measure(given: argparse.Namespace, forms: Mapping[str, str]) -> dict[str, Any]:
    """All parts that are wanted."""
    asked = given.engines.split(",")
    missing = {name: why for name in asked if (why := left_out(name, forms))}
    names = [name for name in asked if name not in missing]
    result: dict[str, Any] = {"benchmark": "carriers", "left_out": missing, "targets": TARGETS}
    result["engines"] = {name: _engine(name, given, forms) for name in names}
    if "start" in given.parts:
        known = [STAND_IN, *given.starts.split(",")] if given.starts else [STAND_IN]
        result["start"] = {name: _starts(name, given, forms) for name in known if name in names}
    if "cycles" in given.parts:
        result["cycles"] = _cycles(asked, given.cycles)
    result |= judged(result)
    return result | {
        "rounds": given.rounds,
        "tokens": given.tokens,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def _engine(name: str, given: argparse.Namespace, forms: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not {"streams", "abort"} & {*given.parts}:
        return found
    path = model_path(name, forms)
    with children() as started:
        both = sides(started, MODULE, name, path)
        if "streams" in given.parts:
            found["streams"] = throughput(both, given.rounds, given.tokens)
        if "abort" in given.parts:
            found["abort"] = both.replica.ask({"aborts": given.aborts})
    return {"form": Path(path).name, **found}


def _starts(name: str, given: argparse.Namespace, forms: Mapping[str, str]) -> dict[str, Any]:
    rounds = given.start_rounds if name == STAND_IN else 1
    return uvloop.run(starts(name, model_path(name, forms), rounds))


def _cycles(names: list[str], count: int) -> dict[str, Any]:
    """Of engines that need no form: the tiny graph is made here."""
    known = available_engines()[0] | {STAND_IN}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        tiny = a_tiny_config(Path(folder))
        for name in ("onnxruntime", STAND_IN):
            if name in names and name in known:
                found[name] = uvloop.run(
                    cycles(lambda n=name: an_engine(n), tiny, count, WARM_CYCLES)
                )
    return found


def a_tiny_config(folder: Path) -> EngineConfig:
    """Of the tiny graph; the stand-in reads none."""
    facts = tiny_model(folder)
    config = a_config("onnxruntime", str(folder), a_text())
    return replace(config, facts=facts, window=512, max_sequences=8, kv_bytes=1 << 20, eos_ids=(2,))


def judged(result: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that the targets speak of, and whether all were reached."""
    ratios: dict[str, float] = {}
    good: list[bool] = []
    freed: dict[str, float] = {}
    for name, found in result["engines"].items():
        target = TARGETS["worker" if name in WORKERS else "server"]
        for streams, cell in found.get("streams", {}).items():
            ratios[f"{name}_{streams}"] = cell["ratio"]["median"]
            good.append(cell["ratio"]["median"] >= target)
        if "abort" in found:
            freed |= {f"{name}_{n}": cell["median"] for n, cell in found["abort"].items()}
    good += [ms <= TARGETS["abort_ms"] for ms in freed.values()]
    added = {name: cell["added_s"]["median"] for name, cell in result.get("start", {}).items()}
    good += [seconds < TARGETS["start_s"] for seconds in added.values()]
    good += [cell["clean"] for cell in result.get("cycles", {}).values()]
    grown = {name: cell["grown"] for name, cell in result.get("cycles", {}).items()}
    return {
        "ratios": ratios,
        "abort_ms": freed,
        "start_added_s": added,
        "grown": grown,
        "met": all(good),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--role", nargs="+", default=[])
    parser.add_argument("--engines", default=",".join((*WORKERS, *SERVERS)))
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--aborts", type=int, default=10)
    parser.add_argument("--start-rounds", type=int, default=10)
    parser.add_argument("--starts", default="", help="real servers that are started too, once")
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--form", action="append", default=[], metavar="ENGINE=PATH")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> int:
    """Runs one role, or the measurement."""
    given = _arguments()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(30),
    )
    match given.role:
        case ["bare", name, path]:
            run_bare(name, path)
            return 0
        case ["replica", name, path]:
            uvloop.run(run_replica(name, path))
            return 0
        case ["replica", name]:
            uvloop.run(run_replica(name, ""))
            return 0
    os.environ[MARK] = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="carriers-") as folder:
        # A place of our own, so that what is left in it is ours.
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        result = measure(given, dict(form.split("=", 1) for form in given.form))
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
