"""What `--what-if` says: one change of the inventory or of the spec, read from a short text.

    +2 FURIOSA_RNGD@npu-1                two more devices on a node; a new node where none has that name
    -1 NVIDIA_L4_24G@gpu-2               one device less
    -device gpu-1/3                      without this device
    +node n9@r3: 8 NVIDIA_H100_80G       a new node, in a rack if one is given; +2 node n: ... adds n-1 and n-2
    -node n7, -rack r1                   without a node, or all nodes of a rack
    models.llama70.replicas=4            another value of a key of the spec; KEY=null removes it

Decides the grammar and how keys of a spec change. What a change of the inventory does is `placement.what_if`'s.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from placement.demand import App
from placement.errors import SpecError
from placement.what_if import (
    AddDevices,
    AddNode,
    InventoryChange,
    RemoveDevice,
    RemoveDevices,
    RemoveNode,
    RemoveRack,
)

from .spec import parse_app
from .yaml_positions import did_you_mean, place, read_yaml

FLAG = "--what-if"

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_COUNT_AT = re.compile(rf"([+-])\s*(\d{{1,9}})\s+({_WORD})\s*@\s*({_WORD})")
_NODE = re.compile(rf"\+\s*(?:(\d{{1,9}})\s+)?node\s+({_WORD})(?:\s*@\s*({_WORD}))?\s*:\s*(.+)")
_PART = re.compile(rf"(\d{{1,9}})\s+({_WORD})")
_WITHOUT = re.compile(r"-\s*(device|node|rack)\s+(\S+)")
_KEY = re.compile(r"([^+\-=\s][^=]*?)\s*=\s*(.*)", re.DOTALL)

_EXAMPLES = (
    '"+2 FURIOSA_RNGD@npu-1", "-node n7", "-device gpu-1/3", "+node n9@r3: 8 NVIDIA_H100_80G", '
    '"-rack r1", "models.llama70.replicas=4"'
)
_NAMED = ("models", "tenants")
"""Mappings of the spec whose keys are the user's names."""

_MOST_NODES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """Another value of one key of the spec; None removes it. `text` is what the user wrote."""

    key: str
    value: Any
    text: str

    def __str__(self) -> str:
        return self.text


def parse_what_if(text: str) -> InventoryChange | KeyChange:
    """One change.

    >>> str(parse_what_if("+2  FURIOSA_RNGD @ npu-1"))
    '+2 FURIOSA_RNGD@npu-1'

    Raises:
        SpecError: with the text and examples of what is understood.
    """
    wanted = text.strip()
    if found := _COUNT_AT.fullmatch(wanted):
        sign, count, device_class, node = found.groups()
        kind = AddDevices if sign == "+" else RemoveDevices
        return kind(node=node, device_class=device_class, count=_count(count, text))
    if found := _NODE.fullmatch(wanted):
        number, node, rack, parts = found.groups()
        count = _count(number or "1", text)
        if count > _MOST_NODES:
            raise _error(text, f"{count} nodes are too many", hint=f"at most {_MOST_NODES}")
        return AddNode(node=node, rack=rack or "", count=count, parts=_parts(parts, text))
    if found := _WITHOUT.fullmatch(wanted):
        what, name = found.groups()
        if what == "device":
            return RemoveDevice(device=name)
        return RemoveNode(node=name) if what == "node" else RemoveRack(rack=name)
    if found := _KEY.fullmatch(wanted):
        key, value = found.groups()
        return KeyChange(key=key, value=_value(value, text), text=wanted)
    raise _error(text, "is no change", hint=f"such as {_EXAMPLES}")


def _count(digits: str, text: str) -> int:
    count = int(digits)
    if count < 1:
        raise _error(text, "changes nothing", hint="give a number of 1 or more")
    return count


def _parts(text: str, whole: str) -> tuple[tuple[str, int], ...]:
    parts = []
    for part in text.split(","):
        found = _PART.fullmatch(part.strip())
        if found is None:
            hint = "write COUNT CLASS, e.g. 8 NVIDIA_H100_80G, with commas between several"
            raise _error(whole, f"{part.strip() or 'nothing'} is no number of devices", hint=hint)
        parts.append((found[2], _count(found[1], whole)))
    return tuple(parts)


def _value(text: str, whole: str) -> Any:
    try:
        return read_yaml(f"value: {text}", FLAG).data["value"]
    except SpecError as error:
        says = f"{text} is no YAML value"
        raise _error(whole, says, hint=error.hint) from None


def _error(text: str, says: str, *, hint: str) -> SpecError:
    return SpecError(f'{FLAG} "{text}": {says}', hint=hint, what_if=text)


# -- keys of the spec -----------------------------------------------------------------------------------------------


def changed_app(text: str, name: str, changes: Sequence[KeyChange]) -> App:
    """What the text of a spec asks for after some of its keys were changed, in order.

    Raises:
        SpecError: naming the change that is wrong, as it would be in the file.
    """
    data = copy.deepcopy(read_yaml(text, name).data)
    paths = [_put(data, change) for change in changes]
    rewritten = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    try:
        return parse_app(rewritten, name)
    except SpecError as error:
        raise _blamed(error, changes, paths) from None


def _put(data: Any, change: KeyChange) -> list[str]:
    """Sets or removes one key; the path that it has."""
    path = _path(data, change.key)
    if not isinstance(data, dict) or not all(path):
        raise _error(change.text, f"{change.key} is no key", hint=f"such as {_EXAMPLES}")
    where: dict[str, Any] = data
    for depth, step in enumerate(path[:-1], start=1):
        _check_name(where, path, depth, change)
        where = _below(where, path[: depth + 1], step, change)
    if change.value is None:
        where.pop(path[-1], None)
    else:
        where[path[-1]] = change.value
    return path


def _path(data: Any, key: str) -> list[str]:
    """The keys of a dotted path; those that the spec has may hold dots themselves."""
    path: list[str] = []
    while True:
        known: dict[str, Any] = data if isinstance(data, dict) else {}
        fits = [k for k in known if key == k or key.startswith(f"{k}.")]
        step: str = max(fits, key=len, default=key.partition(".")[0])
        path.append(step)
        if step == key:
            return path
        data, key = known.get(step), key[len(step) + 1 :]


def _check_name(where: dict[str, Any], path: list[str], depth: int, change: KeyChange) -> None:
    """A key below an unknown model or tenant is a typing error, not a new one."""
    if depth == 2 and path[0] in _NAMED and path[1] not in where:
        noun = path[0].removesuffix("s")
        says = f"no {noun} is called {path[1]}"
        raise _error(change.text, says, hint=did_you_mean(path[1], where))


def _below(where: dict[str, Any], path: list[str], step: str, change: KeyChange) -> dict[str, Any]:
    """The mapping under a key, made where there is none; short forms become long ones."""
    held = where.get(step)
    if step == "replicas" and isinstance(held, int):
        held = where[step] = {"min": held, "max": held}
    elif held is None or (step == "policy" and isinstance(held, str)):
        held = where[step] = dict[str, Any]()
    if not isinstance(held, dict):
        says = f"{place(path[:-1])}holds {held}, which has no key {path[-1]}"
        raise _error(change.text, says, hint=f"give it whole: {'.'.join(path[:-1])}=VALUE")
    return held


def _blamed(error: SpecError, changes: Sequence[KeyChange], paths: list[list[str]]) -> SpecError:
    """The spec was right before: the change in whose path the error lies made it wrong."""
    at = [str(key) for key in error.fields.get("path", ())]
    named = zip(changes, paths, strict=True)
    fits = [c for c, path in named if all(a == b for a, b in zip(at, path, strict=False))]
    prefix = f"{error.fields.get('file')}:{error.fields.get('line')}: "
    change = fits[-1] if fits else changes[-1]
    return _error(change.text, error.message.removeprefix(prefix), hint=error.hint)
