"""Plan documents read back: from what `plan -o json` printed to the plan itself, strict about what a plan is made of.

The inverse of `codec.plan_document`. Knows shapes only; whether the plan is right is `proof`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .codec import EXACT, decode, plan_document
from .errors import SpecError
from .plan import Plan

_SAME_IN_PREDICTED = (
    "tokens_per_s",
    "prefill_tokens_per_s",
    "price_per_hour",
    "load_s",
    "uncertainty",
)
_SAME_IN_SLOT = ("model", "engine", "dtype", "tp", "pp", "kv_bytes", "emulated")
_LARGEST = 1e300
"""Of the numbers in a document; what is larger overflows in sums."""


def read_document(text: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        SpecError: it is no JSON object, names a key twice, or holds a number that is none.
    """
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _broken(f"it is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise _broken(f"it is a JSON {type(found).__name__}, not an object")
    return found


def plan_of(document: Mapping[str, Any]) -> Plan:
    """The plan in a document that `plan_document` made; keys that it does not know are left aside.

    Raises:
        SpecError: the document says infeasible, a key is missing, or a value is of another type.
    """
    feasible = _get(document, "feasible")
    if feasible is not True:
        raise _broken(
            "it says that no plan exists" if feasible is False else "`feasible` is no bool"
        )
    names = ("generation", "policy", "seed", "value", "bound", "dual_bound", "proven", "proof")
    prices = _get(document, "prices")
    if not isinstance(prices, dict):
        raise _broken("`prices` is no object")
    shape = {
        **{name: _get(document, name) for name in names},
        "unplaced": _get(document, "unplaced"),
        "prices": list(prices.items()),
        "slots": [_slot_of(slot) for slot in _list(document, "slots")],
        "rejections": [
            {("device_class" if key == "class" else key): value for key, value in row.items()}
            for row in map(_mapping, _list(document, "rejections"))
        ],
    }
    return decode(Plan, json.dumps(shape))


def disagreement(document: Mapping[str, Any], plan: Plan) -> str:
    """The first place where a document differs from what its own plan would be printed as; empty = nowhere.

    A document says some things twice, for people: milliseconds beside seconds, the gap beside bound and value.
    """
    cpu_s = document.get("cpu_s", 0.0)
    if not isinstance(cpu_s, (int, float)):
        return "cpu_s is no number"
    printed = json.loads(json.dumps(plan_document(plan, float(cpu_s))))
    return _difference("", document, printed)


def _difference(place: str, found: Any, expected: Any) -> str:
    if isinstance(expected, dict) and isinstance(found, Mapping):
        pairs = [
            (f"{place}.{key}" if place else key, found.get(key), expected[key]) for key in expected
        ]
    elif isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = [
            (f"{place}.{k}", *pair) for k, pair in enumerate(zip(found, expected, strict=True))
        ]
    else:
        return (
            "" if found == expected else f"{place} is {found}, the rest of the plan says {expected}"
        )
    return next((says for pair in pairs if (says := _difference(*pair))), "")


def _slot_of(slot: Any) -> dict[str, Any]:
    row = _mapping(slot)
    predicted, why = _mapping(_get(row, "predicted")), _mapping(_get(row, "why"))
    second = _get(why, "runner_up")
    return {
        "id": _get(row, "slot"),
        "device_class": _get(row, "class"),
        **{name: _get(row, name) for name in _SAME_IN_SLOT},
        "predicted": {
            **{name: _get(predicted, name) for name in (*_SAME_IN_PREDICTED, *EXACT)},
            "power_w": _get(predicted, "watts"),
        },
        "stages": [
            {name: _get(_mapping(stage), name) for name in ("layers", "node", "devices", "shares")}
            for stage in _list(row, "stages")
        ],
        "why": {
            "binding": _get(why, "binding"),
            "runner_up": None
            if second is None
            else {
                "device_class": _get(_mapping(second), "class"),
                **{name: _get(_mapping(second), name) for name in ("engine", "tp", "pp", "loss")},
            },
        },
    }


def _get(row: Mapping[str, Any], key: str) -> Any:
    if key not in row:
        raise _broken(f"the key `{key}` is missing")
    return row[key]


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    found = _get(row, key)
    if not isinstance(found, list):
        raise _broken(f"`{key}` is no list")
    return found


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _broken(f"{str(value)[:40]} is no object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key} is given twice")
        if isinstance(value, (int, float)) and not abs(value) < _LARGEST:
            raise ValueError(f"{key} is {str(value)[:20]}, which is no sensible number")
        made[key] = value
    return made


def _no_number(word: str) -> float:
    raise ValueError(f"it holds {word}, which is no number")


def _broken(says: str) -> SpecError:
    return SpecError(
        f"this is no plan: {says}",
        hint="write one with `shardyard plan --inventory FILE SPEC -o json`",
    )
