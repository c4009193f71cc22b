"""Plan documents as `plan -o json` prints them and `verify` reads them back, and how to change a number in one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from placement import Plan, Problem
from placement.codec import plan_document
from placement.proof import Audit, audit
from placement.proof_document import disagreement, plan_of


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
