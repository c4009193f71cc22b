"""Published figures per device class and per engine, read once from the package's own `catalog.toml`.

Knows the file's units and turns them into bytes, seconds and watts; knows nothing of nodes or models.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from .devices import DeviceClass, Kind
from .engine_facts import EngineFacts, engine_of
from .inventory import Inventory
from .units import GBYTE, GIB, TERA

__all__ = [
    "EMULATED",
    "EngineFacts",
    "catalog",
    "classes_of",
    "engines",
    "engines_for",
    "layout_engine",
]

EMULATED = "emulated"
"""The engine that runs on declared devices, and on nothing else."""


@cache
def catalog() -> Mapping[str, DeviceClass]:
    """Device classes by name.

    >>> catalog()["RBLN_ATOM"].memory_bytes
    16033985331
    """
    document = _document()
    defaults = document["defaults"]
    return MappingProxyType(
        {name: _device_class(name, defaults | row) for name, row in document["classes"].items()}
    )


@cache
def engines() -> Mapping[str, EngineFacts]:
    """Engines by name, in order of preference.

    >>> engines()["openvino"].stored_weights, engines()["vllm"].tp
    (True, (1, 2, 4, 8))
    """
    return MappingProxyType(
        {name: engine_of(name, row) for name, row in _document()["engines"].items()}
    )


def classes_of(inventory: Inventory) -> Mapping[str, DeviceClass]:
    """The catalog with the inventory's own classes laid over it."""
    return {**catalog(), **{c.name: c for c in inventory.classes}}


def layout_engine(
    device_class: DeviceClass, extra: tuple[EngineFacts, ...] = ()
) -> EngineFacts | None:
    """The preferred real engine of a class, whose layouts the emulated engine imitates; None when nothing drives it.

    >>> layout_engine(catalog()["FURIOSA_RNGD"]).name
    'furiosa'
    """
    return next(iter(_drivers(device_class, extra)), None)


def engines_for(
    device_class: DeviceClass, *, emulated: bool, extra: tuple[EngineFacts, ...] = ()
) -> tuple[EngineFacts, ...]:
    """Engines that drive a device of a class, in order of preference, each within what it runs there.

    Args:
        extra: engines that the catalog does not have (`Inventory.engines`); one with a name of the catalog is left out.

    >>> [e.name for e in engines_for(catalog()["CPU"], emulated=True)]
    ['emulated']
    """
    if emulated:
        return (_stand_in(device_class, extra),)
    return _drivers(device_class, extra)


@lru_cache(maxsize=1024)
def _drivers(device_class: DeviceClass, extra: tuple[EngineFacts, ...]) -> tuple[EngineFacts, ...]:
    """The catalog's engines in its order, then the others; those that yield there come last and run on one device alone."""
    known = (*engines().values(), *(e for e in extra if e.name not in engines()))
    driving = [e for e in known if e.covers(device_class)]
    last = [replace(e, tp=(1,), pp=1, chain=0) for e in driving if e.yields_on(device_class)]
    return (*(e for e in driving if not e.yields_on(device_class)), *last)


def _stand_in(device_class: DeviceClass, extra: tuple[EngineFacts, ...]) -> EngineFacts:
    """The emulated engine within the layout limits of the engine that a class really has."""
    own, real = engines()[EMULATED], layout_engine(device_class, extra)
    if real is None:
        return own
    return replace(
        own,
        dtypes=real.dtypes,
        tp=real.tp,
        pp=real.pp,
        chain=real.chain,
        overhead_bytes=real.overhead_bytes,
        stored_weights=real.stored_weights,
    )


@cache
def _document() -> dict[str, Any]:
    return tomllib.loads(files("placement").joinpath("catalog.toml").read_text("utf-8"))


def _device_class(name: str, row: dict[str, Any]) -> DeviceClass:
    return DeviceClass(
        name=name,
        vendor=row["vendor"],
        kind=Kind(row["kind"]),
        memory_bytes=int((row["gib"] - row["reserve_gib"]) * row["usable"] * GIB),
        bandwidth_bytes_per_s=row["gbyte_per_s"] * GBYTE,
        bandwidth_cap_bytes_per_s=row.get("cap_gbyte_per_s", 0.0) * GBYTE,
        flops=tuple(sorted((dtype, value * TERA) for dtype, value in row["tflops"].items())),
        power_w=row["watts"],
        idle_w=row["watts"] * row["idle_ratio"],
        price_per_hour=row["price_per_hour"],
        bandwidth_efficiency=row["bandwidth_efficiency"],
        flops_efficiency=row["flops_efficiency"],
        uncertainty=row["uncertainty"],
        link_bytes_per_s=row["link_gbyte_per_s"] * GBYTE,
        link_latency_s=row["link_latency_us"] * 1e-6,
        load_bytes_per_s=row["load_gbyte_per_s"] * GBYTE,
        source=row["source"],
        recalled=tuple(row["recalled"]),
    )
