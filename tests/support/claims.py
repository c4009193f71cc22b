"""Plans whose claims are made by the proof's own rules: what a solver that says all it may say would print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from placement import Plan, Problem, solve
from placement.codec import plan_document
from placement.plan import Infeasible
from placement.proof import Audit, audit, prove, proven_bound
from placement.proof_document import disagreement, plan_of

RELATIVE = 1e-6


def claimed(problem: Problem, plan: Plan) -> Plan:
    """The plan with the bound that its prices prove, or the one that a complete search proves."""
    dual_bound = proven_bound(problem, plan.prices)
    if dual_bound - plan.value <= RELATIVE * abs(dual_bound):
        proof, bound = "prices", dual_bound
    elif prove(problem, dict(plan.prices), plan.value).complete:
        proof, bound = "search", plan.value
    else:
        proof, bound = "none", dual_bound
    return replace(plan, dual_bound=dual_bound, bound=bound, proof=proof, proven=proof != "none")


def solved(problem: Problem) -> Plan | Infeasible:
    """What the solver answers, with every claim that can be made."""
    result = solve(problem)
    return claimed(problem, result) if isinstance(result, Plan) else result


def printed(plan: Plan) -> dict[str, Any]:
    """The document as a reader gets it."""
    return json.loads(json.dumps(plan_document(plan, 0.25)))


def read_back(problem: Problem, document: dict[str, Any]) -> Audit:
    """What `shardyard verify` finds in a document."""
    plan = plan_of(document)
    says = disagreement(document, plan)
    return Audit(faults=(says,)) if says else audit(problem, plan)


def numbers(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the numbers of a document are."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, (*path, key))
    elif isinstance(value, list):
        for key, inner in enumerate(value):
            yield from numbers(inner, (*path, key))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    """What a document holds there."""
    for key in path:
        value = value[key]
    return value


def put(document: Any, path: tuple[str | int, ...], new: Any) -> None:
    """Writes into a document."""
    at(document, path[:-1])[path[-1]] = new
