"""Fingerprints of what a plan was made for, so that a change of a file that alters no figure of the plan is noticed too.

They show a mistake, not malice: whoever can write a plan file can write its fingerprints. What a plan claims is proved without
them (placement.proof).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from typing import Any

from placement.problem import Problem


def fingerprints(problem: Problem) -> dict[str, str]:
    """Of the inventory and of the spec, 16 hexadecimal digits each; equal for files that mean the same."""
    return {"inventory": _digest(problem.inventory), "spec": _digest(problem.app)}


def other_than(problem: Problem, claimed: object) -> str:
    """What differs from the fingerprints that a document names, in one sentence; empty when nothing does.

    A cluster's own plans name none: their inventory is not a file.
    """
    if claimed is None:
        return ""
    if not isinstance(claimed, Mapping):
        return "made_for is no mapping of fingerprints"
    for name, digest in fingerprints(problem).items():
        if claimed.get(name) != digest:
            return f"the {name} is not the one that the plan was made for"
    return ""


def _digest(value: object) -> str:
    text = json.dumps(_plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Nouns as JSON types; sets in a fixed order."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Set):
        return sorted(map(_plain, value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return value
