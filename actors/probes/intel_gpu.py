"""Intel's GPUs, as the kernel's drivers xe and i915 tell in sysfs, and `xpu-smi` where they do not.

Decides which GPUs are offered: cards with memory of their own, and a processor's own GPU only when
`SHARDYARD_INTEL_IGPU=1` says so, because it takes its memory from models on the processor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from placement.devices import DeviceClass, Health, Kind
from placement.ids import NodeId

from .. import pci
from ..host import Host
from ..offers import offered
from ..pci import PciFunction
from ..probe import Absent, Accelerator, Broken, Found
from ..product import listed, product_name, unlisted
from ..quantities import power_w
from ..readers import intel_gpu_sysfs, openvino_devices, xpu_smi
from ..readers.hwmon import Rates
from ..readers.intel_gpu_sysfs import Card
from ..readers.openvino_devices import Runtime
from ..readers.shared_memory import half_of_ram
from ..readers.xpu_smi import Told
from ..report import Reading
from ..vendors import families

INTEGRATED_ENV = "SHARDYARD_INTEL_IGPU"
DRIVERS = ("xe", "i915")
KIND = "GPU"
"""OpenVINO's word for these devices."""

_DISCRETE = ("56", "e2", "0bd", "4905", "4906", "4907", "4908")
"""Beginnings of device ids of cards: Arc A and Flex, Arc B, Max, Iris Xe Max."""


@dataclass(slots=True)
class IntelGpuProbe:
    """A handle is the index that Level Zero counts by: cards in order of PCI addresses, then the processor's own GPU."""

    name: ClassVar[str] = "intel-gpu"
    watches: ClassVar[tuple[str, ...]] = ("/sys/class/drm", pci.DEVICES)

    _rates: Rates = field(default_factory=Rates)
    _cards: dict[str, Card] = field(default_factory=dict)
    _seen: tuple[tuple[str, ...], Runtime] = ((), Runtime())

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`. OpenVINO is asked until it has once listed what is there now."""
        del node
        family = families()["intel-gpu"]
        functions = pci.pci_functions(host, family.pci, family.pci_classes)
        held = [f for f in functions if not f.virtual and f.driver in DRIVERS]
        cards = sorted((intel_gpu_sysfs.card(host, f) for f in held), key=_level_zero_order)
        shared = host.env(INTEGRATED_ENV) == "1"
        wanted = [c for c in cards if shared or _discrete(c)]
        broken = [*_undriven(functions), *_closed(host, wanted)]
        usable = [c for c in wanted if host.access(_file(c)) == "ok"]
        if not usable:
            return broken[0] if broken else Absent()
        self._cards = {c.function.address: c for c in usable}
        runtime = self._runtime(host, tuple(self._cards))
        order = {c.function.address: k for k, c in enumerate(cards)}
        return _found(host, usable, order, runtime, broken)

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`. Memory in use is not told by these drivers."""
        self._rates.keep(
            f"{kind} {address}" for address in self._cards for kind in ("idle", "energy")
        )
        return {
            one.identity: self._reading(host, self._cards[one.pci])
            for one in found.accelerators
            if one.pci in self._cards
        }

    def _runtime(self, host: Host, there: tuple[str, ...]) -> Runtime:
        if self._seen[0] == there and self._seen[1].sees(KIND):
            return self._seen[1]
        self._seen = (there, openvino_devices.runtime(host))
        return self._seen[1]

    def _reading(self, host: Host, card: Card) -> Reading:
        address, now = card.function.address, host.clock_s()
        asleep = self._rates.per_s(f"idle {address}", card.asleep_ms(host), now)
        energy = self._rates.per_s(f"energy {address}", card.monitor.energy_uj(host), now)
        power = card.monitor.power_w(host)
        return Reading(
            # The part of the time in which it was not asleep: it wakes for work only.
            utilisation=None if asleep is None else min(1.0, max(0.0, 1.0 - asleep / 1e3)),
            temperature_c=card.monitor.temperature_c(host),
            power_w=power if power is not None or energy is None else power_w(energy / 1e6),
            clock_ratio=card.clock_ratio(host),
            throttled=card.throttled(host),
        )


def _level_zero_order(card: Card) -> tuple[bool, str]:
    return not _discrete(card), card.function.address


def _discrete(card: Card) -> bool:
    return card.memory_bytes is not None or card.function.device.startswith(_DISCRETE)


def _file(card: Card) -> str:
    return f"/dev/dri/{card.render or 'renderD128'}"


def _undriven(functions: Sequence[PciFunction]) -> Iterator[Broken]:
    """Cards that neither driver holds. A processor's own GPU is not missed by anybody."""
    for f in functions:
        if f.driver not in DRIVERS and not f.virtual and f.device.startswith(_DISCRETE):
            by = f"is held by {f.driver}" if f.driver else "has no driver"
            name = product_name("intel-gpu", f.device) or f"Intel GPU {f.device}"
            yield Broken(reason=f"{name} at {f.address} {by}", hint=families()["intel-gpu"].install)


def _closed(host: Host, cards: Sequence[Card]) -> Iterator[Broken]:
    for card in cards:
        access = host.access(_file(card))
        if access == "denied":
            group = families()["intel-gpu"].group
            hint = f"usermod -aG {group} USER, then log in again"
        else:
            hint = "in a container, pass --device /dev/dri; otherwise see dmesg for xe and i915"
        if access != "ok":
            yield Broken(
                reason=f"{_file(card)} of the Intel GPU at {card.function.address} is {access}",
                hint=hint,
            )


def _found(
    host: Host,
    cards: Sequence[Card],
    order: Mapping[str, int],
    runtime: Runtime,
    broken: Sequence[Broken],
) -> Found:
    needed = any(_discrete(c) and (c.memory_bytes is None or not _named(c)) for c in cards)
    told, wrong = xpu_smi.discovery(host) if needed else ({}, "")
    classes: dict[str, DeviceClass] = {}
    made = [
        _accelerator(
            host,
            card,
            told.get(card.function.address, Told()),
            str(order[card.function.address]),
            classes,
        )
        for card in cards
    ]
    if runtime.sees(KIND) is False:
        made = [
            replace(one, health=Health.DEGRADED, evidence=("OpenVINO does not list it",))
            for one in made
        ]
    return offered(
        Found(
            accelerators=tuple(made),
            classes=tuple(classes.values()),
            links=pci.links((a.identity, c.function) for a, c in zip(made, cards, strict=True)),
            broken=(*broken, *_unnamed(wrong), *_silence(runtime)),
        )
    )


def _named(card: Card) -> str | None:
    return product_name("intel-gpu", card.function.device, card.memory_bytes)


def _accelerator(
    host: Host, card: Card, told: Told, handle: str, classes: dict[str, DeviceClass]
) -> Accelerator:
    function = card.function
    memory = card.memory_bytes or told.memory_bytes
    if memory is None and not _discrete(card):
        memory = half_of_ram(host)
    product = told.name or _named(card) or f"Intel GPU {function.device}"
    limit = card.monitor.power_limit_w(host)
    known = listed("intel-gpu", product, memory_bytes=memory, pci=function.device)
    if known is None:
        known = unlisted(
            vendor="intel", kind=Kind.GPU, product=product, memory_bytes=memory, power_w=limit
        )
        classes[known.name] = known
    return Accelerator(
        family="intel-gpu",
        product=product,
        device_class=known.name,
        handle=handle,
        serial=told.serial,
        pci=function.address,
        memory_bytes=memory,
        numa_node=function.numa_node,
        driver=told.driver,
        power_limit_w=limit,
        temperature_limit_c=card.monitor.limit_c(host),
        notes=(
            ("kernel driver", function.driver),
            *(
                ()
                if _discrete(card)
                else (("memory", "half of the RAM, shared with the processor"),)
            ),
            *pci.lanes_note(host, function.folder),
        ),
    )


def _unnamed(wrong: str) -> Iterator[Broken]:
    if wrong:
        yield Broken(
            reason=f"the driver does not tell what the cards are, and {wrong}",
            hint="install Intel's xpu-smi, or see what xpu-smi discovery -j says on the node",
        )


def _silence(runtime: Runtime) -> Iterator[Broken]:
    if runtime.sees(KIND) is False:
        yield Broken(
            reason="OpenVINO lists no GPU",
            hint="apt install intel-opencl-icd libze-intel-gpu1, then start the agent again",
        )
    elif runtime.wrong:
        yield Broken(reason=runtime.wrong, hint="run: python -c 'import openvino; openvino.Core()'")
