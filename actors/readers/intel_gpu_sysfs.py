"""An Intel GPU's folder in sysfs, in the layouts of its two kernel drivers, xe and i915.

Decides which file holds what under which driver. It must not know products, nor which GPUs are offered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..host import Host
from ..pci import PciFunction
from ..quantities import size_bytes, whole
from . import hwmon

SENSORS = ("card", "pkg")
"""Labels of the sensors that speak for a card, best first: its power is told for all of it, its temperature for the chip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Where a GPU's values are. Made once in a look, so that a poll reads only values.

    Attributes:
        render: name of its device file in `/dev/dri`; empty = its driver made none.
        memory_bytes: its own memory; None = it has none, or its driver does not tell.
        idle: files of counters of milliseconds asleep, one for each compute tile.
        clock, highest_clock: files, MHz.
        throttle: begin of the files that say whether and why it is slowed down.
    """

    function: PciFunction
    render: str = ""
    memory_bytes: int | None = None
    idle: tuple[str, ...] = ()
    clock: str = ""
    highest_clock: str = ""
    throttle: str = ""
    monitor: hwmon.Monitor

    def asleep_ms(self, host: Host) -> int | None:
        """Milliseconds asleep since its driver was loaded: of the busiest tile, which sleeps least."""
        told = [_count(host, file) for file in self.idle]
        return min((value for value in told if value is not None), default=None)

    def clock_ratio(self, host: Host) -> float | None:
        """Its clock over its highest; None while it sleeps, when its clock reads 0."""
        now, top = _count(host, self.clock), _count(host, self.highest_clock)
        return min(1.0, now / top) if now and top else None

    def throttled(self, host: Host) -> tuple[str, ...]:
        """Why it is slowed down, in the words of `Reading`."""
        if not self.throttle or _count(host, f"{self.throttle}status") != 1:
            return ()
        heat = ("reason_thermal", "reason_prochot", "reason_ratl")
        return ("thermal",) if any(_count(host, self.throttle + n) for n in heat) else ("power",)


def card(host: Host, function: PciFunction) -> Card:
    """What the folder of a function offers."""
    names = host.list(f"{function.folder}/drm")
    primary = next((n for n in names if n.startswith("card")), "")
    drm = f"{function.folder}/drm/{primary}"
    if function.driver == "xe":
        return _xe(host, function, _render(names))
    gt = f"{drm}/gt/gt0"
    return Card(
        function=function,
        render=_render(names),
        memory_bytes=_first_size(
            host, (f"{drm}/lmem_total_bytes", f"{function.folder}/lmem_total_bytes")
        ),
        idle=(f"{gt}/rc6_residency_ms",),
        clock=f"{drm}/gt_act_freq_mhz",
        highest_clock=f"{drm}/gt_RP0_freq_mhz",
        throttle=f"{gt}/throttle_",
        monitor=hwmon.monitor(host, function.folder, SENSORS),
    )


def _xe(host: Host, function: PciFunction, render: str) -> Card:
    """Each tile has its own memory, and its first GT computes."""
    tiles = [
        f"{function.folder}/{name}"
        for name in host.list(function.folder)
        if name.startswith("tile") and name[4:].isdigit()
    ]
    sizes = [
        _first_size(
            host,
            (f"{tile}/physical_vram_size_bytes", f"{tile}/memory/physical_vram_size_bytes"),
        )
        for tile in tiles
    ]
    gt = f"{tiles[0]}/gt0" if tiles else ""
    return Card(
        function=function,
        render=render,
        memory_bytes=size_bytes(sum(size or 0 for size in sizes)),
        idle=tuple(f"{tile}/gt0/gtidle/idle_residency_ms" for tile in tiles),
        clock=f"{gt}/freq0/act_freq" if gt else "",
        highest_clock=f"{gt}/freq0/rp0_freq" if gt else "",
        throttle=f"{gt}/freq0/throttle/" if gt else "",
        monitor=hwmon.monitor(host, function.folder, SENSORS),
    )


def _render(names: Iterable[str]) -> str:
    return next((n for n in names if n.startswith("renderD")), "")


def _first_size(host: Host, files: Iterable[str]) -> int | None:
    told = (whole((host.read(file) or "").strip(), most=2**63) for file in files)
    return next((size for value in told if (size := size_bytes(value)) is not None), None)


def _count(host: Host, file: str) -> int | None:
    return whole((host.read(file) or "").strip(), most=2**63) if file else None
