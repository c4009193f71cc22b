"""Which JSON schemas a grammar compiler is given: it ends its process over some of those that it does not know.

Decides by a list of what is known to compile, so that nobody's request can end an engine. It must not know engines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MOST_BYTES = 32 << 10
MOST_DEPTH = 16
MOST_REPEATS = 1000
"""Of a counted repetition, whose grammar grows with it."""
MOST_NAMES = 100
"""Of an object. The compiler's time grows with their square, and nobody else's text goes on meanwhile: 14 s for 1000."""

_TYPES = frozenset(("object", "array", "string", "integer", "number", "boolean", "null"))
_NOTES = frozenset(("title", "description", "default", "examples", "$schema", "$id", "$comment"))
_COUNTS = frozenset(("minLength", "maxLength", "minItems", "maxItems"))
_NAMED = frozenset(("properties", "$defs", "definitions"))
_KNOWN = (
    _NOTES
    | _COUNTS
    | _NAMED
    | {"type", "items", "additionalProperties", "required", "enum", "const", "anyOf", "$ref"}
)


class _Unknown(Exception):
    """What a grammar is not made of."""


def unsupported(text: str) -> str:
    """Why a text is no schema that is compiled; empty = it is one.

    >>> unsupported('{"type": "object", "properties": {"age": {"type": "integer"}}}')
    ''
    >>> unsupported('{"type": "string", "pattern": "(("}')
    "the JSON schema has 'pattern', which is not supported"
    """
    if len(text) > MOST_BYTES:
        return f"the JSON schema is longer than {MOST_BYTES} characters"
    try:
        schema = json.loads(text)
        if not isinstance(schema, dict):
            return "the JSON schema is not a JSON object"
        _check(schema, schema, 0)
    except (ValueError, RecursionError) as error:
        return f"the JSON schema is not JSON: {str(error)[:100]}"
    except _Unknown as error:
        return f"the JSON schema has {error}"
    return ""


def _check(schema: Any, root: Mapping[str, Any], depth: int) -> None:
    if schema is True:
        return
    if not isinstance(schema, dict):
        raise _Unknown(f"{str(schema)[:40]!r} where a schema must be")
    if depth > MOST_DEPTH:
        raise _Unknown(f"more than {MOST_DEPTH} levels")
    unknown = schema.keys() - _KNOWN
    if unknown:
        raise _Unknown(f"{min(unknown)[:40]!r}, which is not supported")
    _check_types(schema)
    _check_counts(schema)
    _check_values(schema)
    _check_reference(schema, root)
    for part in _parts(schema):
        _check(part, root, depth + 1)


def _parts(schema: Mapping[str, Any]) -> list[Any]:
    parts = [schema["items"]] if "items" in schema else []
    if schema.get("additionalProperties", False) is not False:
        parts.append(schema["additionalProperties"])
    for key in _NAMED & schema.keys():
        if not isinstance(schema[key], dict):
            raise _Unknown(f"{key} that is no object")
        if len(schema[key]) > MOST_NAMES:
            raise _Unknown(f"more than {MOST_NAMES} {key}")
        parts += schema[key].values()
    choices = schema.get("anyOf", [])
    if not isinstance(choices, list) or ("anyOf" in schema and not choices):
        raise _Unknown("anyOf that is no list of schemas")
    return parts + choices


def _check_types(schema: Mapping[str, Any]) -> None:
    kind = schema.get("type", "object")
    for name in kind if isinstance(kind, list) and kind else [kind]:
        if not isinstance(name, str) or name not in _TYPES:
            raise _Unknown(f"type {str(name)[:40]!r}, which is none")


def _check_counts(schema: Mapping[str, Any]) -> None:
    for key in _COUNTS & schema.keys():
        value = schema[key]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_REPEATS:
            raise _Unknown(f"{key} {str(value)[:40]}, which is not from 0 to {MOST_REPEATS}")
    for least, most in (("minLength", "maxLength"), ("minItems", "maxItems")):
        if schema.get(least, 0) > schema.get(most, MOST_REPEATS):
            raise _Unknown(f"{least} above {most}")


def _check_values(schema: Mapping[str, Any]) -> None:
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise _Unknown("required that is no list of names")
    known = schema.get("properties")
    if isinstance(known, dict) and not set(required) <= known.keys():
        raise _Unknown("required names that are no properties")
    values = schema.get("enum", [None])
    if not isinstance(values, list) or not values:
        raise _Unknown("enum that is no list of values")


def _check_reference(schema: Mapping[str, Any], root: Mapping[str, Any]) -> None:
    """References lead to a definition at the top, which is enough for what libraries write."""
    target = schema.get("$ref", "#")
    if target == "#":
        return
    parts = target.split("/") if isinstance(target, str) else []
    found = root.get(parts[1]) if len(parts) == 3 and parts[0] == "#" else None
    if (
        parts[1:2] not in (["$defs"], ["definitions"])
        or not isinstance(found, dict)
        or parts[2] not in found
    ):
        raise _Unknown(f"a $ref {str(target)[:40]!r} that leads nowhere")
