"""What a node says of itself: one value, sent as JSON, from which the controller makes its inventory.

Decides which facts travel. It must not know how they were found, nor what anybody does with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from placement.devices import Device, DeviceClass
from placement.engine_facts import EngineFacts
from placement.ids import DeviceId, NodeId
from placement.interconnect import Bond
from placement.inventory import ModelPresence, Node


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFacts:
    """What is known of a node's processors; None = the machine does not say.

    Attributes:
        cores, threads: physical cores and logical CPUs that are online, before any limit of a container.
        usable_cores: what this process may use: cores in its affinity mask, less where a cgroup quota binds.
        numa_domains: memory domains that have processors.
        isa: of `avx2`, `avx512`, `vnni`, `amx`, `bf16`, `neon`, `sve`: those found.
        memory_bytes: RAM of the machine.
        memory_limit_bytes: the tightest cgroup limit below that, else None.
    """

    model: str | None = None
    architecture: str | None = None
    sockets: int | None = None
    cores: int | None = None
    threads: int | None = None
    usable_cores: int | None = None
    numa_domains: int | None = None
    isa: frozenset[str] = frozenset()
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What runs on a node; nodes that differ are cordoned.

    Attributes:
        code: hash of the files of the three packages, as imported there.
    """

    shardyard: str
    code: str
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a device does at one moment; None = it does not tell.

    Attributes:
        utilisation: busy fraction of the device, 0 to 1.
        clock_ratio: its clock now over its highest clock, 0 to 1; what a throttled device still reaches.
        throttled: why it is slowed down now, of `thermal`, `power`, `hardware`; empty = it is not, or does not tell.
        faults: sentences that speak against placing work on it, e.g. `Xid 79: fallen off the bus`; evidence of its health.
    """

    memory_used_bytes: int | None = None
    utilisation: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    clock_ratio: float | None = None
    throttled: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """What polling a probe's devices costs: seconds of one thread each time, and how often it happens for that."""

    probe: str
    cost_s: float
    period_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What is known of an accelerator besides what placement needs; see `actors.probe.Accelerator` for the fields.

    Attributes:
        evidence: why its health is what it is.
        resets: how often it was lost and came back since the agent started.
    """

    device: DeviceId
    family: str = ""
    product: str = ""
    serial: str | None = None
    uuid: str | None = None
    pci: str | None = None
    part: str = ""
    memory_bytes: int | None = None
    numa_node: int | None = None
    driver: str | None = None
    firmware: str | None = None
    power_limit_w: float | None = None
    temperature_limit_c: float | None = None
    evidence: tuple[str, ...] = ()
    resets: int = 0
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenProbe:
    """A probe, or a part of what it found, that cannot be trusted, and what mends it."""

    name: str
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """One node at one moment.

    Attributes:
        incarnation: changes when the node leaves and returns (Ray's node id).
        cores, memory_bytes: usable by models, all CPU devices together; None = unknown.
        classes: device classes that the catalog does not have, or overrides of it.
        engines: engines that can start there.
        engine_facts: of those that the catalog does not have.
        models: the model sources that it was asked about.
        broken: probes that failed and values that were dropped.
        emulated: its hardware is declared, replayed or a vendor library's stand-in, not found.
        facts: of the accelerators, in the order of `devices`.
        bonds: how they are joined.
        readings, polls: what the devices do now and what it costs to know; change all the time, decide nothing.
    """

    node: NodeId
    hostname: str
    versions: Versions
    rack: str = ""
    incarnation: str = ""
    cores: int | None = None
    memory_bytes: int | None = None
    cpu: CpuFacts | None = None
    devices: tuple[Device, ...] = ()
    classes: tuple[DeviceClass, ...] = ()
    engines: frozenset[str] = frozenset()
    engine_facts: tuple[EngineFacts, ...] = ()
    models: tuple[ModelPresence, ...] = ()
    broken: tuple[BrokenProbe, ...] = ()
    emulated: bool = False
    facts: tuple[DeviceFacts, ...] = ()
    bonds: tuple[Bond, ...] = ()
    readings: tuple[tuple[DeviceId, Reading], ...] = ()
    polls: tuple[Poll, ...] = ()

    def lasting(self) -> NodeReport:
        """The report without what changes all the time; equal for two reports that say the same."""
        return replace(self, readings=(), polls=())

    def renewal(self) -> Renewal:
        """What changes all the time."""
        return Renewal(
            node=self.node,
            incarnation=self.incarnation,
            readings=self.readings,
            polls=self.polls,
        )

    def as_node(self) -> Node:
        """The node as placement sees it."""
        return Node(
            id=self.node,
            rack=self.rack,
            incarnation=self.incarnation,
            cores=self.cores or 0,
            memory_bytes=self.memory_bytes or 0,
            devices=self.devices,
            engines=self.engines,
            models=self.models,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """A node's word that its last report still holds, with what its devices do now."""

    node: NodeId
    incarnation: str
    readings: tuple[tuple[DeviceId, Reading], ...] = ()
    polls: tuple[Poll, ...] = ()
