"""The sockets of a machine and the files that tell their power, temperature and faults.

Decides which file belongs to which socket. It must not know what the files say from moment to moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from placement.devices import Device

from ..host import Host
from ..quantities import text_of, whole
from .cpu_lists import parse_cpu_list

_CPUS = "/sys/devices/system/cpu"
_POWERCAP = "/sys/class/powercap"
_HWMON = "/sys/class/hwmon"
_EDAC = "/sys/devices/system/edac/mc"
_SENSORS = ("coretemp", "k10temp", "zenpower")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A socket, and where its figures are read.

    Attributes:
        zones: folders of its energy counters.
        sensors: files of its temperatures, in thousandths of a degree.
        throttle: file that counts how often it was too hot.
        memory: folders of its memory controllers.
    """

    cpus: frozenset[int]
    zones: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    throttle: str = ""
    memory: tuple[str, ...] = ()


def packages_of(host: Host, devices: Sequence[Device]) -> dict[int, Package]:
    """The sockets on which our devices are, by number."""
    cpus = _sockets(host, devices)
    zones, sensors, memory = _zones(host), _sensors(host), _memory_controllers(host)
    only = len(cpus) == 1
    return {
        number: Package(
            cpus=members,
            zones=_of(zones, number, only=False),
            sensors=_of(sensors, number, only=only),
            throttle=f"{_CPUS}/cpu{min(members)}/thermal_throttle/package_throttle_count",
            memory=_of(memory, number, only=True),
        )
        for number, members in cpus.items()
        if members
    }


def _of(places: Mapping[int | None, list[str]], number: int, *, only: bool) -> tuple[str, ...]:
    """What carries a socket's number, and what carries none where that cannot be another's."""
    return (*places.get(number, ()), *(places.get(None, ()) if only else ()))


def _sockets(host: Host, devices: Sequence[Device]) -> dict[int, frozenset[int]]:
    """CPUs by socket; a machine that tells of none is one."""
    found: dict[int, frozenset[int]] = {}
    left = frozenset(cpu for d in devices for cpu in parse_cpu_list(d.handle))
    everything = left
    while left:
        folder = f"{_CPUS}/cpu{min(left)}/topology"
        number = whole(host.read(f"{folder}/physical_package_id"))
        members = parse_cpu_list(host.read(f"{folder}/package_cpus_list")) or parse_cpu_list(
            host.read(f"{folder}/core_siblings_list")
        )
        if number is None or not members:
            return {0: everything}
        found[number] = found.get(number, frozenset()) | members
        left -= members | {min(left)}
    return found


def _zones(host: Host) -> dict[int | None, list[str]]:
    """Energy counters of whole packages; those of cores and memory below them are parts of these."""
    found: dict[int | None, list[str]] = {}
    for name in host.list(_POWERCAP):
        folder = f"{_POWERCAP}/{name}"
        if not re.fullmatch(r"intel-rapl:[0-9]+", name):
            continue
        told = re.match(r"package-([0-9]{1,4})", text_of(host.read(f"{folder}/name")) or "")
        if told:
            found.setdefault(int(told[1]), []).append(folder)
    return found


def _sensors(host: Host) -> dict[int | None, list[str]]:
    """Temperatures of packages: Intel's carry the number of the package, AMD's the name of the control value."""
    found: dict[int | None, list[str]] = {}
    for chip in host.list(_HWMON):
        folder = f"{_HWMON}/{chip}"
        if text_of(host.read(f"{folder}/name")) not in _SENSORS:
            continue
        for entry in host.list(folder):
            if not re.fullmatch(r"temp[0-9]{1,3}_label", entry):
                continue
            label = text_of(host.read(f"{folder}/{entry}")) or ""
            numbered = re.fullmatch(r"Package id ([0-9]{1,4})", label)
            if numbered or label in ("Tctl", "Tdie"):
                place = f"{folder}/{entry.removesuffix('_label')}_input"
                found.setdefault(int(numbered[1]) if numbered else None, []).append(place)
    return found


def _memory_controllers(host: Host) -> dict[int | None, list[str]]:
    """By socket, where the controller's name has one; else it may be anybody's."""
    found: dict[int | None, list[str]] = {}
    for name in host.list(_EDAC):
        if not re.fullmatch(r"mc[0-9]{1,4}", name):
            continue
        told = text_of(host.read(f"{_EDAC}/{name}/mc_name")) or ""
        socket = re.search(r"(?:Socket|Src_?ID)#?([0-9]{1,3})", told)
        found.setdefault(int(socket[1]) if socket else None, []).append(f"{_EDAC}/{name}")
    return found
