"""Device classes of NVIDIA's cards and of their MIG instances.

Decides what is taken for the rates of a card that the catalog does not have, and which part of a card an instance is.
It must not know how the card was asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from placement.devices import DeviceClass, Dtype, Kind
from placement.units import MIB

from ..product import USABLE, listed, unlisted
from ..quantities import power_w, size_bytes, text_of, whole

FAMILY = "nvidia"
SLICES = 7
"""Compute slices of a card that can be divided."""

_TENSOR: Mapping[str, float] = {
    "7.0": 8.0,
    "7.5": 4.0,
    "8.0": 16.0,
    "8.6": 2.0,
    "8.9": 2.0,
    "9.0": 14.0,
    "10.0": 28.0,
    "12.0": 2.0,
}
"""Dense half-precision rate over single-precision rate by compute capability, the lowest of the products that have it;
derived from data sheets of V100, T4, A100, RTX 3090, RTX 4090, H100, B200, RTX 5090."""


def card_class(card: Mapping[str, Any], memory_bytes: int | None) -> DeviceClass:
    """The class of a whole card: of the catalog, or made from what it tells."""
    name = text_of(card.get("name")) or "NVIDIA GPU"
    known = listed(FAMILY, name, memory_bytes=memory_bytes, pci=text_of(card.get("device")))
    if known is not None:
        return known
    flops = rates(card)
    made = unlisted(
        vendor=FAMILY,
        kind=Kind.GPU,
        product=name,
        memory_bytes=memory_bytes,
        bandwidth_bytes_per_s=bandwidth(card),
        flops=flops or None,
        power_w=watts(card.get("power_limit_mw")),
    )
    if not flops:
        return made
    return replace(
        made,
        source=f"{made.source}; tflops derived from cores and clock",
        recalled=(*made.recalled, "tflops"),
    )


def bandwidth(card: Mapping[str, Any]) -> float | None:
    """Bytes per second of the memory: NVML tells the clock of a double data rate.

    >>> round(bandwidth({"bus_bits": 384, "memory_mhz": 10501}) / 1e9)
    1008
    """
    bits = whole(card.get("bus_bits"), most=16384)
    clock = whole(card.get("memory_mhz"), most=100_000)
    return None if not bits or not clock else bits / 8 * clock * 1e6 * 2


def rates(card: Mapping[str, Any]) -> dict[Dtype, float]:
    """FLOP/s by dtype from cores, clock and generation; empty when the card does not tell them.

    >>> rates({"cores": 16384, "sm_mhz": 2520, "capability": "8.9"})["fp16"] / 1e12 > 150
    True
    """
    cores = whole(card.get("cores"), most=10**6)
    clock = whole(card.get("sm_mhz"), most=10_000)
    capability = text_of(card.get("capability")) or ""
    if not cores or not clock:
        return {}
    single = 2.0 * cores * clock * 1e6
    half = single * _TENSOR.get(capability, 1.0)
    found: dict[Dtype, float] = {"fp32": single, "fp16": half}
    major, _, minor = capability.partition(".")
    generation = (whole(major) or 0, whole(minor) or 0)
    if generation >= (7, 5):
        found["int8"] = 2.0 * half
    if generation >= (8, 0):
        found["bf16"] = half
    if generation >= (8, 9):
        found["fp8"] = 2.0 * half
    return found


def watts(milliwatts: object) -> float | None:
    """NVML's milliwatts; None for what no card draws.

    >>> watts(700000), watts(-1), watts(4294967295)
    (700.0, None, None)
    """
    value = whole(milliwatts, most=10**9)
    return None if value is None else power_w(value / 1000.0)


def profile(instance: Mapping[str, Any]) -> str:
    """What NVIDIA calls an instance's size, e.g. `1g.10gb` or `1c.3g.40gb`.

    >>> profile({"name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb"}), profile({"slices": 2, "memory_mib": 19968})
    ('1g.10gb', '2g.20gb')
    """
    name = text_of(instance.get("name")) or ""
    found = re.search(r"MIG ([0-9a-z.+]+)$", name)
    if found:
        return found[1]
    slices, mib = whole(instance.get("slices")), whole(instance.get("memory_mib"))
    return f"{slices}g.{round(mib / 1024)}gb" if slices and mib else "instance"


def instance_bytes(instance: Mapping[str, Any], sharing: int) -> int | None:
    """Memory of an instance; compute instances of one GPU instance share theirs, in equal parts."""
    told = size_bytes(instance.get("memory_mib"), "MiB") or size_bytes(instance.get("memory_total"))
    return None if told is None else told // max(1, sharing)


def instance_class(
    parent: DeviceClass,
    parent_bytes: int | None,
    instance: Mapping[str, Any],
    memory_bytes: int | None,
) -> DeviceClass:
    """The class of an instance: its parent's, in proportion to its memory and its compute slices."""
    size = profile(instance)
    suffix = re.sub(r"[^A-Z0-9]+", "_", size.upper().replace("GB", "G"))
    slices = whole(instance.get("slices"), most=SLICES) or 1
    compute = slices / SLICES
    part = memory_bytes / parent_bytes if memory_bytes and parent_bytes else compute
    memory = memory_bytes or 0
    return replace(
        parent,
        name=f"{parent.name}_MIG_{suffix}"[:80],
        memory_bytes=int(memory * USABLE),
        bandwidth_bytes_per_s=parent.bandwidth_bytes_per_s * min(1.0, part),
        flops=tuple((dtype, rate * compute) for dtype, rate in parent.flops),
        power_w=parent.power_w * compute,
        idle_w=parent.idle_w * compute,
        price_per_hour=parent.price_per_hour * compute,
        link_bytes_per_s=0.0,
        source=f"{parent.name} in proportion to {slices} of {SLICES} slices and {round(memory / MIB)} MiB",
        recalled=tuple(dict.fromkeys((*parent.recalled, "gbyte_per_s", "tflops", "watts"))),
    )
