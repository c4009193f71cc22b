"""Intel's NPUs in client processors, as the kernel's driver `intel_vpu` tells in sysfs.

Decides when one can be worked with: its driver holds it, its device file opens, and OpenVINO, where it is installed,
lists it. It must not know how fast it is (catalog), nor run anything on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from placement.devices import DeviceClass, Health, Kind
from placement.ids import NodeId

from .. import pci
from ..host import Host
from ..offers import offered
from ..pci import PciFunction
from ..probe import Absent, Accelerator, Broken, Found
from ..product import class_of, product_name
from ..quantities import text_of, used_bytes, whole
from ..readers import openvino_devices
from ..readers.hwmon import Rates
from ..readers.openvino_devices import Runtime
from ..report import Reading
from ..vendors import families

DRIVER = "intel_vpu"
HANDLE = "NPU"
"""OpenVINO's name of the device; no variable hides one."""


@dataclass(slots=True)
class IntelNpuProbe:
    """A machine has one of them at most today. It tells no serial, so its PCI address is its identity."""

    name: ClassVar[str] = "intel-npu"
    watches: ClassVar[tuple[str, ...]] = ("/sys/class/accel", pci.DEVICES)

    _rates: Rates = field(default_factory=Rates)
    _seen: tuple[tuple[str, ...], Runtime] = ((), Runtime())

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`. OpenVINO is asked until it has once listed what is there now."""
        del node
        family = families()["intel-npu"]
        functions = [
            f for f in pci.pci_functions(host, family.pci, family.pci_classes) if not f.virtual
        ]
        if not functions:
            return Absent()
        usable = [f for f in functions if _unusable(host, f) is None]
        broken = tuple(wrong for f in functions if (wrong := _unusable(host, f)) is not None)
        if not usable:
            return broken[0]
        runtime = self._runtime(host, usable)
        classes: dict[str, DeviceClass] = {}
        made = tuple(_accelerator(host, f, k, runtime, classes) for k, f in enumerate(usable))
        return offered(
            Found(
                accelerators=made,
                classes=tuple(classes.values()),
                broken=(*broken, *_silence(runtime)),
            )
        )

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`."""
        self._rates.keep(one.identity for one in found.accelerators)
        return {
            one.identity: self._reading(host, one.identity, f"{pci.DEVICES}/{one.pci}")
            for one in found.accelerators
        }

    def _runtime(self, host: Host, functions: Sequence[PciFunction]) -> Runtime:
        there = tuple(f.address for f in functions)
        if self._seen[0] == there and self._seen[1].sees(HANDLE):
            return self._seen[1]
        self._seen = (there, openvino_devices.runtime(host))
        return self._seen[1]

    def _reading(self, host: Host, identity: str, folder: str) -> Reading:
        busy_us = whole((host.read(f"{folder}/npu_busy_time_us") or "").strip(), most=2**63)
        rate = self._rates.per_s(identity, busy_us, host.clock_s())
        return Reading(
            memory_used_bytes=used_bytes(host.read(f"{folder}/npu_memory_utilization")),
            utilisation=None if rate is None else min(1.0, rate / 1e6),
            clock_ratio=_clock_ratio(host, folder),
        )


def _unusable(host: Host, function: PciFunction) -> Broken | None:
    family = families()["intel-npu"]
    name = _product(function)
    if function.driver != DRIVER:
        by = f"is held by {function.driver}" if function.driver else "has no driver"
        return Broken(reason=f"{name} at {function.address} {by}", hint=family.install)
    for file in host.list(f"{function.folder}/accel"):
        if host.access(f"/dev/accel/{file}") == "denied":
            return Broken(
                reason=f"/dev/accel/{file} of {name} may not be opened",
                hint=f"usermod -aG {family.group} USER, then log in again",
            )
        if host.access(f"/dev/accel/{file}") == "ok":
            return None
    return Broken(
        reason=f"{name} at {function.address} has no device file",
        hint="in a container, pass --device /dev/accel; otherwise see dmesg for intel_vpu",
    )


def _accelerator(
    host: Host,
    function: PciFunction,
    place: int,
    runtime: Runtime,
    classes: dict[str, DeviceClass],
) -> Accelerator:
    product = _product(function)
    known = class_of("intel-npu", product, Kind.NPU, classes, pci=function.device)
    unseen = runtime.sees(HANDLE) is False
    return Accelerator(
        family="intel-npu",
        product=product,
        device_class=known.name,
        handle=HANDLE if place == 0 else f"{HANDLE}.{place}",
        pci=function.address,
        numa_node=function.numa_node,
        health=Health.DEGRADED if unseen else Health.HEALTHY,
        evidence=("OpenVINO does not list it",) if unseen else (),
        notes=tuple(_notes(host, function)),
    )


def _silence(runtime: Runtime) -> Iterator[Broken]:
    if runtime.sees(HANDLE) is False:
        yield Broken(reason="OpenVINO lists no NPU", hint=families()["intel-npu"].install)
    elif runtime.wrong:
        yield Broken(reason=runtime.wrong, hint="run: python -c 'import openvino; openvino.Core()'")


def _product(function: PciFunction) -> str:
    return product_name("intel-npu", function.device) or f"Intel NPU {function.device}"


def _notes(host: Host, function: PciFunction) -> Iterator[tuple[str, str]]:
    yield ("memory", "shared with the processor")
    for key, name in (("scheduler", "sched_mode"), ("highest clock, MHz", "npu_max_frequency_mhz")):
        value = text_of(host.read(f"{function.folder}/{name}"))
        if value:
            yield (key, value)


def _clock_ratio(host: Host, folder: str) -> float | None:
    """None while it sleeps, when its clock reads 0."""
    now, top = (
        whole((host.read(f"{folder}/npu_{which}_frequency_mhz") or "").strip())
        for which in ("current", "max")
    )
    return min(1.0, now / top) if now and top else None
