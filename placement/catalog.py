"""Published figures per device class and per engine, read once from the package's own `catalog.toml`.

Knows the file's units and turns them into bytes, seconds and watts; knows nothing of nodes or models.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from .devices import DeviceClass, Dtype, Kind
from .inventory import Inventory
from .units import GBYTE, GIB, TERA

EMULATED = "emulated"
"""The engine that runs on declared devices, and on nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What an engine drives and which layouts it takes.

    Attributes:
        drives: `vendor/kind` pairs, or `vendor/kind/CLASS` for one class alone.
        architectures: graphs that it knows; empty = any.
        tp: sizes of a tensor-parallel group.
        pp: most pipeline stages.
        chain: most stages of a pipeline whose stages lie in several pools; 0 = it runs none.
        schemes: of model sources that it reads.
        overhead_bytes: memory that it takes on each device beside weights and KV cache.
        start_s: from process start to the first byte of weights.
        build_s: to compile a model for a device class; 0 = it needs no artifact.
        serves: this version of Shardyard can start it.
        exact: its greedy text can be independent of batch and resume point.
        stored_weights: it loads weights as they are stored.
    """

    name: str
    drives: frozenset[str]
    dtypes: tuple[Dtype, ...]
    architectures: frozenset[str] = frozenset()
    tp: tuple[int, ...] = (1,)
    pp: int = 1
    chain: int = 0
    schemes: frozenset[str] = frozenset()
    overhead_bytes: int = 0
    start_s: float = 0.0
    build_s: float = 0.0
    serves: bool = False
    exact: bool = False
    stored_weights: bool = False

    def covers(self, device_class: DeviceClass) -> bool:
        """Whether it drives real devices of that class."""
        pair = f"{device_class.vendor}/{device_class.kind}"
        return bool(self.drives & {pair, f"{pair}/{device_class.name}"})


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
        {name: _engine(name, row) for name, row in _document()["engines"].items()}
    )


def classes_of(inventory: Inventory) -> Mapping[str, DeviceClass]:
    """The catalog with the inventory's own classes laid over it."""
    return {**catalog(), **{c.name: c for c in inventory.classes}}


def layout_engine(device_class: DeviceClass) -> EngineFacts | None:
    """The preferred real engine of a class, whose layouts the emulated engine imitates; None when nothing drives it.

    >>> layout_engine(catalog()["FURIOSA_RNGD"]).name
    'furiosa'
    """
    return next((e for e in engines().values() if e.covers(device_class)), None)


def engines_for(device_class: DeviceClass, *, emulated: bool) -> tuple[EngineFacts, ...]:
    """Engines that drive a device of a class, in order of preference.

    >>> [e.name for e in engines_for(catalog()["CPU"], emulated=True)]
    ['emulated']
    """
    if emulated:
        return (_stand_in(device_class),)
    return tuple(e for e in engines().values() if e.covers(device_class))


def _stand_in(device_class: DeviceClass) -> EngineFacts:
    """The emulated engine within the layout limits of the engine that a class really has."""
    own, real = engines()[EMULATED], layout_engine(device_class)
    return EngineFacts(
        name=EMULATED,
        drives=own.drives,
        dtypes=real.dtypes if real else own.dtypes,
        tp=real.tp if real else (1,),
        pp=real.pp if real else 1,
        chain=real.chain if real else 0,
        schemes=own.schemes,
        overhead_bytes=real.overhead_bytes if real else own.overhead_bytes,
        serves=own.serves,
        exact=own.exact,
        stored_weights=real.stored_weights if real else False,
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


def _engine(name: str, row: dict[str, Any]) -> EngineFacts:
    return EngineFacts(
        name=name,
        drives=frozenset(row["drives"]),
        dtypes=tuple(row["dtypes"]),
        architectures=frozenset(row.get("architectures", ())),
        tp=tuple(row.get("tp", (1,))),
        pp=row.get("pp", 1),
        chain=row.get("chain", 0),
        schemes=frozenset(row.get("schemes", ())),
        overhead_bytes=int(row.get("overhead_gib", 0.0) * GIB),
        start_s=row.get("start_s", 0.0),
        build_s=row.get("build_s", 0.0),
        serves=row.get("serves", False),
        exact=row.get("exact", False),
        stored_weights=row.get("stored_weights", False),
    )
