"""What the solver takes for an instance, and how good its answer is known to be: one JSON object a line.

CPU seconds are those of `solve()` alone, memory is the highest that the process ever held; the benchmark verifies each plan
itself. With --lose-nodes the plan of the whole cluster is what runs, and the nodes fail one at a time.

usage: python -m benchmarks.placement --devices N --models M [--seed S] [--lp] [--deadline SECONDS] [--write DIR] [--lose-nodes]
       python -m benchmarks.placement --pools N [--seed S] ...
"""

from __future__ import annotations

import argparse
import inspect
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import instances
from orchestrator.inventory_dump import dump_inventory
from orchestrator.spec import dump_app
from placement.demand import App
from placement.errors import ShardyardError
from placement.ids import NodeId
from placement.inventory import Inventory
from placement.plan import Infeasible, Plan, Slot
from placement.problem import Problem
from placement.solve import solve, warm
from placement.verify import verify

INFEASIBLE = 3
"""Exit status when some line says so; as the command line has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the solver said, and the CPU seconds that it took."""

    outcome: Plan | Infeasible
    cpu_s: float


def ask(problem: Problem, *, lp: bool, deadline_s: float | None) -> Answer:
    """One solve, stopped when its CPU time is used up."""
    options: dict[str, Any] = {"lp": True} if lp else {}
    started = time.process_time()
    outcome = solve(problem, _stopping(started, deadline_s), **options)
    return Answer(outcome=outcome, cpu_s=time.process_time() - started)


def _stopping(started: float, deadline_s: float | None) -> Callable[[], bool]:
    if deadline_s is None:
        return lambda: False
    return lambda: time.process_time() - started >= deadline_s


def whole_line(problem: Problem, answer: Answer) -> dict[str, Any]:
    """The line of the whole cluster."""
    outcome = answer.outcome
    asked = problem.app.demands
    line: dict[str, Any] = {
        "devices": sum(len(node.devices) for node in problem.inventory.nodes),
        "models": len(asked),
        "replicas": sum(d.replicas_min for d in asked),
        "feasible": isinstance(outcome, Plan),
    }
    if isinstance(outcome, Plan):
        line |= {
            "replicas": len(outcome.slots),
            "value": outcome.value,
            "bound": outcome.bound,
            "gap": outcome.gap,
            "proven": outcome.proven,
            "verified": not verify(problem, outcome),
            "packed": all(slot.devices for slot in outcome.slots),
        }
    else:
        line["conflict"] = list(outcome.conflict)
    return line | {"cpu_s": round(answer.cpu_s, 4), "peak_mib": round(peak_mib(), 1)}


def peak_mib() -> float:
    """Resident memory of this process at its highest."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / (1 << 20)


def loss_line(base: Plan, problem: Problem, lost: NodeId, answer: Answer) -> dict[str, Any]:
    """The line of one lost node. Unaffected is a replica of the running plan that was not on it."""
    outcome = answer.outcome
    displaced = [slot for slot in base.slots if lost in slot.nodes]
    line: dict[str, Any] = {
        "node": lost,
        "displaced": len(displaced),
        "feasible": isinstance(outcome, Plan),
    }
    if isinstance(outcome, Plan):
        after = {slot.id: slot for slot in outcome.slots}
        stayed = [slot for slot in base.slots if lost not in slot.nodes]
        line |= {
            "changed_unaffected": sum(_changed(slot, after.get(slot.id)) for slot in stayed),
            "unpacked": max(0, len(base.slots) - len(outcome.slots)),
            "gap": outcome.gap,
            "verified": not verify(problem, outcome),
        }
    else:
        line |= {
            "changed_unaffected": 0,
            "unpacked": len(displaced),
            "gap": None,
            "conflict": list(outcome.conflict),
        }
    return line | {"cpu_s": round(answer.cpu_s, 4)}


def _changed(before: Slot, after: Slot | None) -> bool:
    """Whether a replica would be restarted: another configuration, or other devices."""
    return after is None or _shape(before) != _shape(after)


def _shape(slot: Slot) -> tuple[object, ...]:
    return slot.engine, slot.device_class, slot.dtype, slot.tp, slot.pp, slot.stages


def without(inventory: Inventory, lost: NodeId) -> Inventory:
    """The next generation, after a node was lost."""
    left = tuple(node for node in inventory.nodes if node.id != lost)
    return replace(inventory, nodes=left, generation=inventory.generation + 1)


def lose_nodes(
    problem: Problem, base: Plan, *, lp: bool, deadline_s: float | None
) -> list[dict[str, Any]]:
    """Prints one line a lost node."""
    lines = []
    for node in problem.inventory.nodes:
        rest = replace(problem, inventory=without(problem.inventory, node.id), current=base)
        line = loss_line(base, rest, node.id, ask(rest, lp=lp, deadline_s=deadline_s))
        _say(line)
        lines.append(line)
    return lines


def write(folder: Path, app: App, inventory: Inventory) -> None:
    """The instance as the files that `shardyard plan` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "app.yaml").write_text(dump_app(app), encoding="utf-8")
    (folder / "inventory.yaml").write_text(dump_inventory(inventory), encoding="utf-8")


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement",
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
    )
    parser.add_argument("--devices", type=int, metavar="N")
    parser.add_argument("--models", type=int, metavar="M")
    parser.add_argument("--pools", type=int, metavar="N", help="N nodes of one GPU, one model")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--lp", action="store_true", help="bound by HiGHS (needs highspy)")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="CPU seconds of a solve")
    parser.add_argument("--write", type=Path, metavar="DIR", help="app.yaml and inventory.yaml")
    parser.add_argument("--lose-nodes", action="store_true", help="then each node in turn")
    return parser


def _given(arguments: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    given = parser.parse_args(arguments)
    if (given.pools is None) == (given.devices is None) or (
        (given.models is None) != (given.devices is None)
    ):
        parser.error("give --devices N and --models M, or --pools N")
    if given.deadline is not None and not 0 <= given.deadline < float("inf"):
        parser.error(f"--deadline {given.deadline} is no number of seconds; give 0 or more")
    if given.lp and "lp" not in inspect.signature(solve).parameters:
        parser.error("this solver has no --lp")
    return given


def _instance(given: argparse.Namespace) -> tuple[App, Inventory]:
    if given.pools is not None:
        return instances.pools(given.pools, given.seed)
    return instances.make(given.devices, given.models, given.seed)


def _refuse(error: ShardyardError) -> NoReturn:
    hint = f" ({error.hint})" if error.hint else ""
    print(f"python -m benchmarks.placement: error: {error.message}{hint}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: list[str] | None = None) -> int:
    """Prints the lines; 0, or 3 when something was infeasible."""
    given = _given(arguments)
    try:
        app, inventory = _instance(given)
        if given.write is not None:
            write(given.write, app, inventory)
        problem = Problem(inventory=inventory, app=app, seed=given.seed)
        warm()
        answer = ask(problem, lp=given.lp, deadline_s=given.deadline)
    except ShardyardError as error:
        _refuse(error)
    line = whole_line(problem, answer)
    _say(line)
    lines = [line]
    if given.lose_nodes and isinstance(answer.outcome, Plan):
        lines += lose_nodes(problem, answer.outcome, lp=given.lp, deadline_s=given.deadline)
    return status(lines)


def status(lines: list[dict[str, Any]]) -> int:
    """Exit status: 0, or 3 when some line says that nothing could be placed."""
    return 0 if all(line["feasible"] for line in lines) else INFEASIBLE


if __name__ == "__main__":
    raise SystemExit(main())
