"""What a probe is: one vendor's way to look for its devices through a `Host`.

A vendor is added by one file in `actors/probes/` with one class that has these members and takes no arguments, or by a
distribution with an entry point in the group `shardyard.probes`. A probe never raises for what is absent or odd on a
machine, never waits without a deadline, and never knows another probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from placement.devices import Device, DeviceClass, Health
from placement.ids import NodeId
from placement.interconnect import Interconnect

from .host import Host
from .report import CpuFacts, Reading


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such hardware here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """There may be such hardware here, but nothing that can be trusted was learnt; `hint` is what mends it."""

    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One accelerator, or one part of it that is given out alone, as its vendor's interface tells.

    Every field but the first three may be unknown: None (or empty), which is never 0. The prober gives it its
    position on the node; nothing here is an index.

    Attributes:
        family: key of `actors/vendors.toml`, e.g. `nvidia`, `intel-npu`; it selects the visibility variable.
        product: as the vendor says, e.g. `NVIDIA H100 80GB HBM3`.
        device_class: name of a class of the catalog or of `Found.classes`.
        handle: what the family's visibility variable or launch flag calls it today.
        pci: address as `quantities.pci_address` writes it.
        part: which part of the card, e.g. `mig:1g.10gb:7`, `pe:0-3`; empty for a whole one.
        board: what parts and dies of one board share, e.g. its serial; for links of kind `same`.
        memory_bytes: all that the device has, before anything is reserved.
        shares: how many exclusive parts it can be given out in; sequences at once for a remote endpoint.
        temperature_limit_c: where the device slows itself down or stops.
        evidence: why its health is not `healthy`, in sentences.
        notes: facts for people, e.g. `("pcie", "gen 5 x16")`.
    """

    family: str
    product: str
    device_class: str
    handle: str = ""
    serial: str | None = None
    uuid: str | None = None
    pci: str | None = None
    part: str = ""
    board: str | None = None
    memory_bytes: int | None = None
    shares: int = 1
    numa_node: int | None = None
    driver: str | None = None
    firmware: str | None = None
    power_limit_w: float | None = None
    temperature_limit_c: float | None = None
    health: Health = Health.HEALTHY
    evidence: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def identity(self) -> str:
        """Vendor, serial or UUID, bus address; empty when it tells none of them.

        >>> Accelerator(family="furiosa", product="RNGD", device_class="FURIOSA_RNGD", serial="R1", pci="0000:27:00.0").identity
        'furiosa:R1@0000:27:00.0'
        """
        own = self.uuid or self.serial or ""
        where = f"@{self.pci}" if self.pci else ""
        part = f"/{self.part}" if self.part else ""
        return f"{self.family}:{own}{where}{part}" if own or where else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is here.

    Attributes:
        devices: devices that have their ids already: processors and declared ones.
        accelerators: devices that the prober numbers.
        links: how accelerators are joined, by pairs of their identities.
        classes: device classes that the catalog does not have, or overrides of it.
        cpu: facts of the processors, from the probe that reads them.
        rack: where a declared node says that it stands.
        broken: parts that could not be read while the rest is good.
        instead: a declaration stands for the whole node, so what other probes find is not offered.
    """

    devices: tuple[Device, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    links: Mapping[tuple[str, str], Interconnect] | None = None
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


@runtime_checkable
class Watching(Protocol):
    """A probe that says where a device that comes or goes shows at once.

    Attributes:
        watches: folders whose listing changes then; looked at each second.
    """

    watches: ClassVar[tuple[str, ...]]


@runtime_checkable
class LiveProbe(Protocol):
    """A probe that watches, and whose devices tell cheaply what they do between two looks."""

    name: ClassVar[str]
    watches: ClassVar[tuple[str, ...]]

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`."""
        ...

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """What the devices of its own last answer do now, by identity; one that does not answer is left out.

        Called about once a second, less often when it costs more than 10 ms. May keep counters of the last call.
        """
        ...
