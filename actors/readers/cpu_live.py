"""What processors do now: busy time, memory, power, temperature and faults of each NUMA domain.

Decides which of the machine's counters belong to a domain; what is measured per package and cannot be told apart between
two domains stays unknown. It must not know how the domains were found, nor what anybody concludes from a reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from placement.devices import Device
from placement.units import KIB

from ..host import Host
from ..machine import memory_in_use_bytes
from ..quantities import power_w, whole
from ..report import Reading
from .cpu_lists import parse_cpu_list
from .cpu_packages import Package, packages_of
from .hwmon import milli_c

_NODES = "/sys/devices/system/node"
_COUNTER_MOST = 2**63

RAPL_W = 1e-6
"""Watts of one counted microjoule per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counters:
    """All counters at one moment: busy and all ticks per CPU, and the numbers in files."""

    at_s: float
    ticks: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)


class CpuLive:
    """Reads the processors' counters and remembers them, because a rate needs two readings."""

    def __init__(self) -> None:
        self._packages: dict[int, Package] = {}
        self._devices: tuple[Device, ...] = ()
        self._before: _Counters | None = None

    def readings(
        self, host: Host, devices: tuple[Device, ...], limit_bytes: int | None
    ) -> dict[str, Reading]:
        """What each domain does now, by the identity of its device.

        Args:
            limit_bytes: of a container; its own use counts then, not the machine's.
        """
        if devices != self._devices:
            self._packages, self._devices, self._before = packages_of(host, devices), devices, None
        now = _counters(host, self._packages.values())
        before, self._before = self._before, now
        return {
            device.identity: self._reading(host, device, limit_bytes, before, now)
            for device in devices
        }

    def _reading(
        self,
        host: Host,
        device: Device,
        limit_bytes: int | None,
        before: _Counters | None,
        now: _Counters,
    ) -> Reading:
        cpus = parse_cpu_list(device.handle)
        near = [p for p in self._packages.values() if p.cpus & _domain_cpus(host, device, cpus)]
        alone = all(self._one_domain(p) for p in near)
        hot = any(_risen(p.throttle, before, now) for p in near)
        return Reading(
            memory_used_bytes=_memory_used(host, device, len(self._devices) == 1, limit_bytes),
            utilisation=_busy(cpus, before, now),
            temperature_c=_hottest(host, near),
            power_w=_power(host, near, before, now) if alone else None,
            throttled=("thermal",) if hot else (),
            faults=tuple(_memory_faults(host, near)),
        )

    def _one_domain(self, package: Package) -> bool:
        """Whether only one of our devices has CPUs of it: the power of a package cannot be divided."""
        sharers = [d for d in self._devices if parse_cpu_list(d.handle) & package.cpus]
        return len(sharers) == 1


def _domain_cpus(host: Host, device: Device, fallback: frozenset[int]) -> frozenset[int]:
    return parse_cpu_list(host.read(f"{_NODES}/node{device.island}/cpulist")) or fallback


def _counters(host: Host, packages: Iterable[Package]) -> _Counters:
    files = [f"{zone}/energy_uj" for p in packages for zone in p.zones]
    files += [p.throttle for p in packages if p.throttle]
    told = ((file, whole(host.read(file), most=_COUNTER_MOST)) for file in files)
    return _Counters(
        at_s=host.clock_s(),
        ticks=_ticks(host.read("/proc/stat")),
        numbers={file: number for file, number in told if number is not None},
    )


def _ticks(text: str | None) -> dict[int, tuple[int, int]]:
    """Busy and all ticks of each CPU. Guests' time is in that of their hosts already."""
    found: dict[int, tuple[int, int]] = {}
    for line in (text or "").splitlines():
        row = re.fullmatch(r"cpu([0-9]{1,6})((?: +[0-9]{1,19}){5,10}) *", line)
        if row:
            ticks = [int(word) for word in row[2].split()][:8]
            found[int(row[1])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found


def _busy(cpus: Iterable[int], before: _Counters | None, now: _Counters) -> float | None:
    """The busy part of the time between two readings; the kernel's idle counters may run back a little."""
    if before is None or now.at_s <= before.at_s:
        return None
    known = [cpu for cpu in cpus if cpu in before.ticks and cpu in now.ticks]
    busy = sum(now.ticks[c][0] - before.ticks[c][0] for c in known)
    everything = sum(now.ticks[c][1] - before.ticks[c][1] for c in known)
    return min(1.0, max(0.0, busy / everything)) if everything > 0 else None


def _power(
    host: Host, near: Sequence[Package], before: _Counters | None, now: _Counters
) -> float | None:
    """Watts of all packages of a domain; None when one of them does not tell (root only, mostly)."""
    zones = [zone for package in near for zone in package.zones]
    if before is None or not zones or not all(package.zones for package in near):
        return None
    watts = [_zone_w(host, zone, before, now) for zone in zones]
    known = [w for w in watts if w is not None]
    return power_w(sum(known)) if len(known) == len(watts) else None


def _zone_w(host: Host, zone: str, before: _Counters, now: _Counters) -> float | None:
    file, passed = f"{zone}/energy_uj", now.at_s - before.at_s
    if file not in before.numbers or file not in now.numbers or passed <= 0:
        return None
    used = now.numbers[file] - before.numbers[file]
    if used < 0:
        range_uj = whole(host.read(f"{zone}/max_energy_range_uj"), most=_COUNTER_MOST)
        if range_uj is None:
            return None
        used += range_uj
    return power_w(used * RAPL_W / passed)


def _risen(file: str, before: _Counters | None, now: _Counters) -> bool:
    if before is None or file not in before.numbers:
        return False
    return now.numbers.get(file, 0) > before.numbers[file]


def _hottest(host: Host, near: Sequence[Package]) -> float | None:
    told = (milli_c(host.read(file)) for package in near for file in package.sensors)
    return max((degrees for degrees in told if degrees is not None), default=None)


def _memory_faults(host: Host, near: Sequence[Package]) -> Iterator[str]:
    for controller in dict.fromkeys(c for package in near for c in package.memory):
        count = whole(host.read(f"{controller}/ue_count"))
        if count:
            name = controller.rpartition("/")[2]
            yield f"{count} uncorrectable memory errors at controller {name} since the machine started"


def _memory_used(host: Host, device: Device, only: bool, limit_bytes: int | None) -> int | None:
    """What cannot be had without taking it from somebody; file caches can."""
    if limit_bytes is not None:
        return memory_in_use_bytes(host) if only else None
    if only:
        return _taken(_kib(host.read("/proc/meminfo")), "MemAvailable")
    domain = _kib(host.read(f"{_NODES}/node{device.island}/meminfo"))
    return _taken(domain, "MemFree", "Active(file)", "Inactive(file)", "SReclaimable")


def _taken(told: Mapping[str, int], *free: str) -> int | None:
    if not all(key in told for key in ("MemTotal", *free)):
        return None
    value = told["MemTotal"] - sum(told[key] for key in free)
    return value if value >= 0 else None


def _kib(text: str | None) -> dict[str, int]:
    """The rows of a `meminfo`, in bytes."""
    rows = re.findall(
        r"^(?:Node [0-9]+ )?([A-Za-z()_]+): +([0-9]{1,15}) kB$", text or "", re.MULTILINE
    )
    return {key: int(value) * KIB for key, value in rows}
