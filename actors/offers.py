"""What of a probe's finds can be offered: devices that are told apart, can be selected alone, and have memory.

Decides what is left out, and says so for each with what mends it. It must not know any vendor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from placement.catalog import catalog
from placement.devices import DeviceClass, Kind

from .probe import Accelerator, Broken, Found
from .product import usable_bytes

DECLARE = "declare it in an inventory: docs/guide/discovery.md"
_LOOK = "compare with the vendor's own tool on the node; reload the driver if it says the same"


def offered(found: Found) -> Found:
    """The answer without accelerators that cannot be offered; each leaves a `Broken`."""
    classes = {**catalog(), **{c.name: c for c in found.classes}}
    kept: dict[str, Accelerator] = {}
    selected: dict[tuple[str, str], Accelerator] = {}
    broken: list[Broken] = []
    for one in found.accelerators:
        wrong = _flaw(one, classes, kept, selected)
        if wrong is not None:
            broken.append(wrong)
            continue
        kept[one.identity] = one
        selected[one.family, one.handle] = one
    if not broken:
        return found
    used = {one.device_class for one in kept.values()}
    return replace(
        found,
        accelerators=tuple(kept.values()),
        links={p: link for p, link in (found.links or {}).items() if p[0] in kept and p[1] in kept},
        classes=tuple(c for c in found.classes if c.name in used),
        broken=(*found.broken, *dict.fromkeys(broken)),
    )


def _flaw(
    one: Accelerator,
    classes: Mapping[str, DeviceClass],
    kept: Mapping[str, Accelerator],
    selected: Mapping[tuple[str, str], Accelerator],
) -> Broken | None:
    return next(
        (
            Broken(reason=reason, hint=hint)
            for reason, hint in (
                *_confused(one, kept, selected),
                *_without_memory(one, classes[one.device_class]),
            )
        ),
        None,
    )


def _confused(
    one: Accelerator,
    kept: Mapping[str, Accelerator],
    selected: Mapping[tuple[str, str], Accelerator],
) -> Iterator[tuple[str, str]]:
    if not one.identity:
        yield f"{one.product} ({one.handle}) tells no serial number, UUID or PCI address", _LOOK
    elif one.identity in kept:
        yield f"{one.product} is listed twice as {one.identity}; the first one is offered", _LOOK
    elif one.handle and (other := selected.get((one.family, one.handle))) is not None:
        yield (
            f"{one.product} ({one.identity}) is selected as {one.handle}, like {other.identity}",
            _LOOK,
        )


def _without_memory(one: Accelerator, known: DeviceClass) -> Iterator[tuple[str, str]]:
    if known.kind is not Kind.REMOTE and usable_bytes(known, one.memory_bytes) <= 0:
        yield f"{one.product} ({one.identity}) is there, but tells no memory", DECLARE
