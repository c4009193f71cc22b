"""The processors of a node: one device per NUMA domain, as much of it as a container leaves us.

Decides how many cores and how much memory models may use, and the device class by instruction set. It must not know
how fast a class is (catalog), nor how cores are given out.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from placement.devices import Device
from placement.ids import DeviceId, NodeId
from placement.units import GIB, KIB

from ..host import Host
from ..machine import cpu_quota, machine_id, memory_limit_bytes, number
from ..probe import Broken, Found
from ..readers.cpu_lists import cpu_list, parse_cpu_list
from ..readers.cpu_live import CpuLive
from ..report import CpuFacts, Reading

RESERVE_RATIO = 0.1
"""Part of the memory kept for the system, Ray and the gateway ..."""
RESERVE_MOST_BYTES = 8 * GIB
"""... up to this much."""

_CPUS = "/sys/devices/system/cpu"
_NODES = "/sys/devices/system/node"

_ISA: Mapping[str, frozenset[str]] = {
    "avx2": frozenset({"avx2"}),
    "avx512": frozenset({"avx512f"}),
    "vnni": frozenset({"avx512_vnni", "avx_vnni"}),
    "amx": frozenset({"amx_tile"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "neon": frozenset({"neon", "asimd"}),
    "sve": frozenset({"sve"}),
}
"""Our word -> the kernel's flags, any of which proves it."""

_CLASSES = (("amx", "CPU_AMX"), ("avx512", "CPU_AVX512"), ("avx2", "CPU_AVX2"))


class CpuProbe:
    """Reads `/proc` and `/sys`; whatever of them is missing stays unknown."""

    name: ClassVar[str] = "cpu"
    watches: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._live = CpuLive()

    def probe(self, host: Host, node: NodeId) -> Found | Broken:
        """See `Probe`. Without a memory size there are facts but no devices."""
        blocks = _cpuinfo(host)
        cpus = _online(host, blocks)
        if not cpus:
            return Broken(
                reason="neither /proc/cpuinfo nor /sys/devices/system/cpu tells of a processor",
                hint="mount /proc and /sys into the container",
            )
        topology = _topology(host, blocks, cpus)
        domains = _domains(host, cpus, topology)
        memory_bytes = _kib(host.read("/proc/meminfo"), "MemTotal")
        facts = _facts(host, blocks, topology, domains, memory_bytes)
        if memory_bytes is None:
            missing = Broken(
                reason="the size of the memory is unknown", hint="mount /proc into the container"
            )
            return Found(cpu=facts, broken=(missing,))
        return Found(cpu=facts, devices=_devices(host, node, facts, domains, memory_bytes))

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`."""
        limit = found.cpu.memory_limit_bytes if found.cpu is not None else None
        return self._live.readings(host, found.devices, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """Where a logical CPU sits; None = unknown."""

    socket: str | None
    core: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Domain:
    """A NUMA domain: its online CPUs, those that we may use, the cores among these, its memory (None = unknown)."""

    number: int
    online: int
    cpus: tuple[int, ...]
    cores: int
    memory_bytes: int | None = None


def _cpuinfo(host: Host) -> dict[int, dict[str, str]]:
    """The blocks of /proc/cpuinfo that have a number."""
    blocks: dict[int, dict[str, str]] = {}
    for text in re.split(r"\n\s*\n", host.read("/proc/cpuinfo") or ""):
        rows = (line.partition(":") for line in text.splitlines())
        block = {key.strip(): value.strip() for key, _, value in rows}
        index = number(block.get("processor"))
        if index is not None:
            blocks[index] = block
    return blocks


def _online(host: Host, blocks: Mapping[int, object]) -> tuple[int, ...]:
    listed = parse_cpu_list(host.read(f"{_CPUS}/online")) or parse_cpu_list(
        host.read(f"{_CPUS}/present")
    )
    return tuple(sorted(listed or blocks))


def _topology(
    host: Host, blocks: Mapping[int, Mapping[str, str]], cpus: Sequence[int]
) -> dict[int, _Core]:
    return {cpu: _from_cpuinfo(blocks.get(cpu, {})) or _from_sysfs(host, cpu) for cpu in cpus}


def _from_cpuinfo(block: Mapping[str, str]) -> _Core | None:
    """x86 tells socket and core in one file; reading it spares two small files per CPU."""
    socket, core = block.get("physical id"), block.get("core id")
    if socket is None or core is None:
        return None
    return _Core(socket=socket, core=f"{socket}:{core}")


def _from_sysfs(host: Host, cpu: int) -> _Core:
    folder = f"{_CPUS}/cpu{cpu}/topology"
    socket = number(host.read(f"{folder}/physical_package_id"))
    siblings = host.read(f"{folder}/thread_siblings_list")
    return _Core(
        socket=None if socket is None or socket < 0 else str(socket),
        core=siblings.strip() if siblings and siblings.strip() else None,
    )


def _domains(host: Host, cpus: Sequence[int], topology: Mapping[int, _Core]) -> tuple[_Domain, ...]:
    """All NUMA domains, also those that are not ours to use; a machine that tells none is one domain."""
    affinity = _field(host.read("/proc/self/status"), "Cpus_allowed_list")
    allowed = frozenset(cpus) & (parse_cpu_list(affinity) or frozenset(cpus))
    domains = tuple(
        _domain(int(name[4:]), members, allowed, topology, host.read(f"{_NODES}/{name}/meminfo"))
        for name in host.list(_NODES)
        if re.fullmatch(r"node[0-9]{1,4}", name)
        and (members := parse_cpu_list(host.read(f"{_NODES}/{name}/cpulist")) & frozenset(cpus))
    )
    if any(domain.cpus for domain in domains):
        return tuple(sorted(domains, key=lambda domain: domain.number))
    return (_domain(0, frozenset(cpus), allowed, topology, None),)


def _domain(
    index: int,
    members: frozenset[int],
    allowed: frozenset[int],
    topology: Mapping[int, _Core],
    meminfo: str | None,
) -> _Domain:
    mine = tuple(sorted(members & allowed))
    return _Domain(
        number=index,
        online=len(members),
        cpus=mine,
        cores=_cores({cpu: topology[cpu] for cpu in mine}),
        memory_bytes=_kib(meminfo, "MemTotal"),
    )


def _cores(topology: Mapping[int, _Core]) -> int:
    """Physical cores, or logical CPUs when SMT cannot be told."""
    cores = {place.core for place in topology.values()}
    return len(topology) if None in cores else len(cores)


def _facts(
    host: Host,
    blocks: Mapping[int, Mapping[str, str]],
    topology: Mapping[int, _Core],
    domains: Sequence[_Domain],
    memory_bytes: int | None,
) -> CpuFacts:
    first = next(iter(blocks.values()), {})
    flags = frozenset(f"{first.get('flags', '')} {first.get('Features', '')}".split())
    sockets = {place.socket for place in topology.values()}
    cores = {place.core for place in topology.values()}
    limit = memory_limit_bytes(host)
    return CpuFacts(
        model=first.get("model name") or first.get("CPU part"),
        architecture=_architecture(host, first),
        sockets=None if None in sockets else len(sockets),
        cores=None if None in cores else len(cores),
        threads=len(topology),
        usable_cores=sum(_shares(domains, cpu_quota(host))),
        numa_domains=len(domains),
        isa=frozenset(word for word, proofs in _ISA.items() if flags & proofs),
        memory_bytes=memory_bytes,
        memory_limit_bytes=limit if limit and limit < (memory_bytes or math.inf) else None,
    )


def _architecture(host: Host, block: Mapping[str, str]) -> str | None:
    told = (host.read("/proc/sys/kernel/arch") or "").strip()
    guess = "x86_64" if "flags" in block else "aarch64" if "Features" in block else None
    return told or guess


def _shares(domains: Sequence[_Domain], quota: float | None) -> tuple[int, ...]:
    """Usable cores of each domain. A smaller CPU quota fills the largest domains first, so that it is not scattered."""
    cores = [domain.cores for domain in domains]
    left = sum(cores) if quota is None else max(1, math.floor(quota))
    shares = [0] * len(cores)
    for k in sorted(range(len(cores)), key=lambda k: (-cores[k], k)):
        shares[k] = min(cores[k], left)
        left -= shares[k]
    return tuple(shares)


def _devices(
    host: Host, node: NodeId, facts: CpuFacts, domains: Sequence[_Domain], memory_bytes: int
) -> tuple[Device, ...]:
    shares = _shares(domains, cpu_quota(host))
    memory = _memory(domains, shares, facts, memory_bytes)
    machine = hashlib.sha256((machine_id(host) or node).encode()).hexdigest()[:12]
    return tuple(
        Device(
            id=DeviceId(f"{node}/cpu{domain.number}"),
            node=node,
            device_class=next((name for word, name in _CLASSES if word in facts.isa), "CPU"),
            memory_bytes=own_bytes,
            shares=count,
            island=domain.number,
            identity=f"cpu:{machine}:numa{domain.number}",
            handle=cpu_list(domain.cpus),
        )
        for domain, count, own_bytes in zip(domains, shares, memory, strict=True)
        if count
    )


def _memory(
    domains: Sequence[_Domain], shares: Sequence[int], facts: CpuFacts, memory_bytes: int
) -> list[int]:
    """What models may use of each domain: its part of the RAM, within the container's limit, less the reserve.

    The parts follow what the domains say of themselves and add up to what the machine says: with hot-plugged or
    ballooned memory the two differ. A domain that we may not run on keeps its part.
    """
    known = [domain.memory_bytes for domain in domains]
    weights = [own or 0 for own in known] if all(known) else [domain.online for domain in domains]
    used = sum(weight for weight, count in zip(weights, shares, strict=True) if count)
    part = memory_bytes * used // sum(weights)
    ours = min(part, facts.memory_limit_bytes or part)
    usable = ours - min(RESERVE_MOST_BYTES, int(RESERVE_RATIO * ours))
    return [usable * weight // used for weight in weights]


def _kib(text: str | None, key: str) -> int | None:
    """A size in `/proc/meminfo` or a domain's `meminfo`, in bytes; zero is as good as unknown."""
    found = re.search(rf"\b{key}:\s+([0-9]{{1,15}}) kB", text or "")
    return int(found[1]) * KIB or None if found else None


def _field(text: str | None, key: str) -> str | None:
    found = re.search(rf"^{key}:\s*(\S+)", text or "", re.MULTILINE)
    return found[1] if found else None
