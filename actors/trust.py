"""What is believed of what probes say: types and figures are checked at run time, as a probe may be anybody's code.

Decides which devices and classes make sense. It must not know how they were found.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from placement.codec import decode, encode
from placement.devices import Device, DeviceClass, Health
from placement.engine_facts import EngineFacts, flaw
from placement.errors import SpecError
from placement.ids import NodeId

from .probe import Absent, Accelerator, Broken, Found

MOST_DEVICES = 4096
MOST_SHARES = 65536
MOST_MEMORY_BYTES = 2**47
"""128 TiB on one device: more than any, less than a size read in the wrong unit."""
ENDPOINT = "remote:"
"""Begins the identity of a remote endpoint."""
_NUMERIC = ("int", "float")
_TEXTS = ("family", "product", "device_class", "handle", "part")
_OPTIONAL_TEXTS = ("serial", "uuid", "pci", "board", "driver", "firmware")
_PARTS = ("devices", "accelerators", "classes", "broken")


def answered(answer: object) -> Found | Absent | Broken:
    """The answer of a probe, if it has the shape that it promises."""
    if isinstance(answer, (Absent, Broken)):
        return answer
    if not isinstance(answer, Found):
        return Broken(reason=f"answered {type(answer).__name__}, not Found, Absent or Broken")
    for name in _PARTS:
        if not isinstance(getattr(answer, name), tuple):
            return Broken(reason=f"{name} of its answer is not a tuple")
    links: object = answer.links
    if links is not None and not isinstance(links, Mapping):
        return Broken(reason="links of its answer are not a mapping")
    return answer


def flaw_of_device(node: NodeId, device: object) -> str | None:
    """Why a device is not believed; None when it is."""
    if not isinstance(device, Device):
        return f"{type(device).__name__} is not a Device"
    what = f"device {device.id!r}"
    if not all(
        isinstance(getattr(device, f), str) for f in ("id", "device_class", "identity", "handle")
    ):
        return f"{what}: a name that is not a text"
    if device.node != node or not device.id.startswith(f"{node}/") or not device.device_class:
        return f"{what} with class {device.device_class!r} is not a device of node {node}"
    if not isinstance(device.health, Health):
        return f"{what}: health {device.health!r} is unknown"
    # What an endpoint computes with is not ours.
    memory = device.memory_bytes or int(device.identity.startswith(ENDPOINT))
    return _flaw_of_amounts(what, memory, device.shares)


def flaw_of_accelerator(found: object, classes: Iterable[str]) -> str | None:
    """Why an accelerator is not believed; `classes` are the names that it may have."""
    if not isinstance(found, Accelerator):
        return f"{type(found).__name__} is not an Accelerator"
    what = f"accelerator {found.product!r} ({found.handle!r})"
    texts = all(isinstance(getattr(found, f), str) for f in _TEXTS)
    if not texts or not all(isinstance(getattr(found, f), str | None) for f in _OPTIONAL_TEXTS):
        return f"{what}: a name that is not a text"
    if not found.identity:
        return f"{what} tells neither serial nor UUID nor bus address"
    if not isinstance(found.health, Health):
        return f"{what}: health {found.health!r} is unknown"
    if found.device_class not in classes:
        return f"{what}: nobody knows the class {found.device_class!r}"
    memory = 1 if found.memory_bytes is None else found.memory_bytes
    return _flaw_of_amounts(what, memory, found.shares)


def _flaw_of_amounts(what: str, memory_bytes: object, shares: object) -> str | None:
    for name, value, most in (
        ("memory_bytes", memory_bytes, MOST_MEMORY_BYTES),
        ("shares", shares, MOST_SHARES),
    ):
        if type(value) is not int or not 0 < value <= most:
            return f"{what}: {name} {value!r} is not a whole number of 1 to {most}"
    return None


def flaw_of_class(given: object) -> str | None:
    """Why a device class is not believed; None when it is."""
    if not isinstance(given, DeviceClass):
        return f"{type(given).__name__} is not a DeviceClass"
    try:
        figures = [value for _, value in given.flops]
    except (TypeError, ValueError):
        return f"device class {given.name!r}: flops are not pairs of dtype and number"
    figures += [getattr(given, f.name) for f in dataclasses.fields(given) if f.type in _NUMERIC]
    if not all(isinstance(v, (int, float)) and math.isfinite(v) and v >= 0 for v in figures):
        return f"device class {given.name!r} has a negative or infinite figure"
    return None


def flaw_of_engine(name: str, given: object) -> str | None:
    """Why the facts that an engine tells of itself are not believed; None when they are."""
    if not isinstance(given, EngineFacts):
        return f"the facts of engine {name!r} are {type(given).__name__}, not EngineFacts"
    if given.name != name:
        return f"the facts of engine {name!r} are those of {given.name!r}"
    try:
        # Types are as promised when the facts survive the way to the controller.
        return flaw(decode(EngineFacts, encode(given))) or None
    except (SpecError, TypeError, ValueError) as error:
        return f"the facts of engine {name!r} make no sense: {error}"
