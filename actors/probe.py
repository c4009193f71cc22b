"""What a probe is: one vendor's way to look for its devices through a `Host`.

A vendor is added by one file in `actors/probes/` with one class that has these members and takes no arguments, or by a
distribution with an entry point in the group `shardyard.probes`. A probe never raises for what is absent or odd on a
machine, never waits without a deadline, and never knows another probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from placement.devices import Device, DeviceClass
from placement.ids import NodeId

from .host import Host
from .report import CpuFacts


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such hardware here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """There may be such hardware here, but nothing that can be trusted was learnt; `hint` is what mends it."""

    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is here.

    Attributes:
        classes: device classes that the catalog does not have, or overrides of it.
        cpu: facts of the processors, from the probe that reads them.
        rack: where a declared node says that it stands.
        broken: parts that could not be read while the rest is good.
        instead: a declaration stands for the whole node, so what other probes find is not offered.
    """

    devices: tuple[Device, ...] = ()
    classes: tuple[DeviceClass, ...] = ()
    cpu: CpuFacts | None = None
    rack: str = ""
    broken: tuple[Broken, ...] = ()
    instead: bool = False


class Probe(Protocol):
    """One vendor's probe."""

    name: ClassVar[str]

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """Looks once. Runs in a thread of its own and is given up at the prober's deadline."""
        ...
