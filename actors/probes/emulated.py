"""A node that is declared, not found: devices from a description in the environment, for labs and tests.

Decides nothing about the shape of a description (`actors.declared`). It must not know labs or files: whoever starts the
node hands it one node's mapping as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

from placement.catalog import catalog
from placement.devices import DeviceClass
from placement.errors import SpecError
from placement.ids import NodeId

from ..declared import devices_of
from ..host import Host
from ..names import EMULATE_ENV
from ..probe import Absent, Broken, Found
from ..report import CpuFacts


class EmulatedProbe:
    """Declared devices stand for the whole node: its real hardware is not offered beside them.

    Args:
        declaration: one node's mapping; None = the JSON in the environment of the node.
        classes: the catalog; None = ours.
    """

    name: ClassVar[str] = "emulated"

    def __init__(
        self,
        declaration: Mapping[str, object] | None = None,
        classes: Mapping[str, DeviceClass] | None = None,
    ) -> None:
        self._declaration = declaration
        self._classes = classes

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`. A description that is wrong offers nothing at all, rather than the real machine."""
        text = host.env(EMULATE_ENV)
        if self._declaration is None and not text:
            return Absent()
        try:
            declaration = _parsed(text or "") if self._declaration is None else self._declaration
            known = catalog() if self._classes is None else self._classes
            devices, classes = devices_of(node, declaration, known, emulated=True)
        except SpecError as error:
            return Found(instead=True, broken=(Broken(reason=error.message, hint=error.hint),))
        cpu = next((d for d in devices if d.id == f"{node}/cpu0"), None)
        facts = CpuFacts(usable_cores=cpu.shares, memory_bytes=cpu.memory_bytes) if cpu else None
        return Found(
            devices=devices,
            classes=classes,
            cpu=facts,
            rack=str(declaration.get("rack") or ""),
            instead=True,
        )


def _parsed(text: str) -> Mapping[str, object]:
    try:
        declaration = json.loads(text)
    except ValueError as error:
        raise SpecError(f"{EMULATE_ENV} is not JSON: {error}") from None
    if not isinstance(declaration, dict):
        raise SpecError(f"{EMULATE_ENV} is not a mapping of keys but {text[:80]!r}")
    return declaration
