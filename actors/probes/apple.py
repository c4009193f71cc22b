"""Apple's chips: one GPU that shares the machine's memory, as `system_profiler` tells.

Decides which part of the memory the GPU may take. It must not know engines.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

from placement.devices import DeviceClass, Kind
from placement.ids import NodeId
from placement.units import GBYTE, TERA

from ..endings import said
from ..host import Host
from ..offers import offered
from ..probe import Absent, Accelerator, Broken, Found
from ..product import unlisted
from ..quantities import document, identifier, size_bytes, text_of

TIMEOUT_S = 3.5
SHARE = 0.75
"""Part of the unified memory that the GPU may hold; Metal's own limit is near this on large machines, lower on small."""

_COMMAND = ("system_profiler", "SPHardwareDataType", "SPDisplaysDataType", "-json")
_HINT = f"run on the node, outside a sandbox: {' '.join(_COMMAND)}"


class AppleProbe:
    """A machine without the tool is no Mac."""

    name: ClassVar[str] = "apple"

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`. A Mac with another vendor's chip has no device here."""
        del node
        answer = host.run(_COMMAND, TIMEOUT_S)
        if answer is None:
            return Absent()
        text, wrong = said("system_profiler", answer)
        machine = _first(document(text), "SPHardwareDataType")
        if machine is None:
            return Broken(
                reason=wrong or "system_profiler tells nothing of the hardware",
                hint=_HINT,
            )
        chip = text_of(machine.get("chip_type", "another vendor's"))
        if chip is None:
            return Broken(reason="system_profiler tells no chip", hint=_HINT)
        if not chip.startswith("Apple "):
            return Absent()
        memory = size_bytes(machine.get("physical_memory"))
        if memory is None:
            return Broken(
                reason=f"system_profiler tells no memory of the {chip}",
                hint=_HINT,
            )
        return _found(chip, int(memory * SHARE), machine, _gpu(document(text), chip))


def _found(chip: str, memory: int, machine: Mapping[str, Any], gpu: Mapping[str, Any]) -> Found:
    known = _class(chip, memory)
    cores = text_of(gpu.get("sppci_cores"))
    notes = (
        ("memory", f"{SHARE:.0%} of the unified memory"),
        *((("gpu cores", cores),) if cores else ()),
    )
    one = Accelerator(
        family="apple",
        product=chip,
        device_class=known.name,
        handle="0",
        serial=identifier(machine.get("serial_number")),
        uuid=identifier(machine.get("platform_UUID")),
        memory_bytes=memory,
        notes=notes,
    )
    return offered(Found(accelerators=(one,), classes=(known,)))


def _class(chip: str, memory: int) -> DeviceClass:
    """What the chip's name says of it; a chip that is not in the table is assumed to be slow."""
    words = re.findall(r"[a-z0-9]+", chip.lower())
    figures = next((row for row in _chips() if set(row["words"]) <= set(words)), None)
    if figures is None:
        return unlisted(vendor="apple", kind=Kind.GPU, product=chip, memory_bytes=memory)
    rate = figures["tflops"] * TERA
    made = unlisted(
        vendor="apple",
        kind=Kind.GPU,
        product=chip,
        memory_bytes=memory,
        bandwidth_bytes_per_s=figures["gbyte_per_s"] * GBYTE,
        flops={"fp16": rate, "bf16": rate, "fp32": rate},
        power_w=figures["watts"],
    )
    recalled = ("gbyte_per_s", "tflops", "watts")
    return replace(made, source="memory told by the machine; figures recalled", recalled=recalled)


def _first(told: Any, key: str) -> Mapping[str, Any] | None:
    rows = told.get(key) if isinstance(told, dict) else None
    first = rows[0] if isinstance(rows, list) and rows else None
    return first if isinstance(first, dict) else None


def _gpu(told: Any, chip: str) -> Mapping[str, Any]:
    found = _first(told, "SPDisplaysDataType")
    return found if found is not None and found.get("sppci_model") == chip else {}


@cache
def _chips() -> tuple[dict[str, Any], ...]:
    place = files("actors") / "products" / "apple.toml"
    return tuple(tomllib.loads(place.read_text("utf-8"))["chips"])
