"""From a product's name to its device class: a row of `products/<family>.toml`, or a class made from what is known.

Decides when a product is one of the catalog, and what is assumed of one that is not. It must not know any product.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from placement.catalog import catalog
from placement.devices import DeviceClass, Dtype, Kind
from placement.units import GBYTE, GIB, TERA

from .vendors import families

USABLE = 0.9
"""Part of an unlisted device's memory that models may use; the rest is the driver's and the engine's workspace."""
USABLE_MOST = 0.95
"""Part that models may use at most: with ECC on, a card tells less than its data sheet."""
NEAR = 0.12
UNLISTED_UNCERTAINTY = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    device_class: str
    words: tuple[str, ...]
    pci: tuple[str, ...]
    gib: float | None
    name: str

    def fits(self, product: str, pci: str | None, memory_bytes: int | None) -> bool:
        named = bool(self.words) and all(w in product for w in self.words)
        if not named and pci not in self.pci:
            return False
        if self.gib is None or memory_bytes is None:
            return True
        return abs(memory_bytes / (self.gib * GIB) - 1.0) <= NEAR


def listed(
    family: str, product: str, *, memory_bytes: int | None = None, pci: str | None = None
) -> DeviceClass | None:
    """The class of the catalog that a product is; None when it is not listed.

    Args:
        pci: its device id, four hexadecimal digits.

    >>> listed("nvidia", "NVIDIA H100 80GB HBM3", memory_bytes=85520809984).name
    'NVIDIA_H100_80G'
    """
    name = product.lower()
    row = next((r for r in _rows(family) if r.fits(name, pci, memory_bytes)), None)
    return catalog()[row.device_class] if row is not None else None


def product_name(family: str, pci: str, memory_bytes: int | None = None) -> str | None:
    """What a PCI device id stands for, where the vendor's interface tells no name; None when no row says.

    >>> product_name("amd", "740f")
    'AMD Instinct MI210'
    """
    row = next((r for r in _rows(family) if r.name and r.fits("", pci, memory_bytes)), None)
    return row.name if row is not None else None


def class_of(
    family: str,
    product: str,
    kind: Kind,
    own: dict[str, DeviceClass],
    *,
    memory_bytes: int | None = None,
    pci: str | None = None,
) -> DeviceClass:
    """The class of the catalog that a product is, else one made for it, which is added to `own` by name.

    >>> own: dict[str, DeviceClass] = {}
    >>> class_of("gaudi", "Gaudi HL-999", Kind.NPU, own, memory_bytes=64 * GIB).name, list(own)
    ('INTEL_GAUDI_HL_999_64G', ['INTEL_GAUDI_HL_999_64G'])
    """
    known = listed(family, product, memory_bytes=memory_bytes, pci=pci)
    if known is not None:
        return known
    made = unlisted(
        vendor=families()[family].vendor, kind=kind, product=product, memory_bytes=memory_bytes
    )
    return own.setdefault(made.name, made)


def usable_bytes(device_class: DeviceClass, memory_bytes: int | None) -> int:
    """What models may use of a device that tells its memory; equal for all devices of a class wherever that is honest.

    >>> usable_bytes(catalog()["FURIOSA_RNGD"], 51002736640) == catalog()["FURIOSA_RNGD"].memory_bytes
    True
    """
    known = device_class.memory_bytes
    if memory_bytes is None or (known and known <= memory_bytes <= known / USABLE * (1 + NEAR)):
        return known if memory_bytes is None else min(known, int(memory_bytes * USABLE_MOST))
    return int(memory_bytes * USABLE)


def unlisted(
    *,
    vendor: str,
    kind: Kind,
    product: str,
    memory_bytes: int | None,
    bandwidth_bytes_per_s: float | None = None,
    flops: Mapping[Dtype, float] | None = None,
    power_w: float | None = None,
    link_bytes_per_s: float = 0.0,
) -> DeviceClass:
    """A class for a product that the catalog does not have: what the device tells, and careful guesses for the rest.

    >>> unlisted(vendor="nvidia", kind=Kind.GPU, product="NVIDIA TITAN V", memory_bytes=12 * GIB).name
    'NVIDIA_TITAN_V_12G'
    """
    guess = _GUESSES[kind]
    size = memory_bytes if memory_bytes is not None else 0
    guessed = [
        name
        for name, given in (
            ("gbyte_per_s", bandwidth_bytes_per_s),
            ("tflops", flops),
            ("watts", power_w),
        )
        if not given
    ]
    return DeviceClass(
        name=_class_name(vendor, product, size),
        vendor=vendor,
        kind=kind,
        memory_bytes=int(size * USABLE),
        bandwidth_bytes_per_s=bandwidth_bytes_per_s or guess.gbyte_per_s * GBYTE,
        flops=tuple(
            sorted(
                (flops or {"fp16": guess.tflops * TERA, "fp32": guess.tflops / 8 * TERA}).items()
            )
        ),
        power_w=power_w or guess.watts,
        link_bytes_per_s=link_bytes_per_s,
        uncertainty=UNLISTED_UNCERTAINTY,
        source="told by the device; not in the catalog"
        + (f"; assumed: {', '.join(guessed)}" if guessed else ""),
        recalled=tuple(guessed),
    )


@dataclass(frozen=True, slots=True)
class _Guess:
    """Below what is usual for the kind, so that a listed device is preferred."""

    gbyte_per_s: float
    tflops: float
    watts: float


_GUESSES = {
    Kind.GPU: _Guess(200.0, 10.0, 200.0),
    Kind.NPU: _Guess(60.0, 5.0, 50.0),
    Kind.PIM: _Guess(100.0, 0.2, 20.0),
    Kind.CPU: _Guess(10.0, 0.1, 10.0),
    Kind.REMOTE: _Guess(0.0, 1.0, 0.0),
}


def _class_name(vendor: str, product: str, memory_bytes: int) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "_", product).strip("_").upper() or "ACCELERATOR"
    prefix = vendor.upper()
    named = words if words.startswith(prefix) else f"{prefix}_{words}"
    size = f"_{round(memory_bytes / GIB)}G" if memory_bytes >= GIB else ""
    return (named if size and named.endswith(size) else named + size)[:80]


@cache
def _rows(family: str) -> tuple[_Row, ...]:
    place = files("actors") / "products" / f"{family}.toml"
    if not place.is_file():
        return ()
    rows: list[dict[str, Any]] = tomllib.loads(place.read_text("utf-8"))["products"]
    return tuple(
        _Row(
            device_class=row["class"],
            words=tuple(w.lower() for w in row.get("words", ())),
            pci=tuple(row.get("pci", ())),
            gib=row.get("gib"),
            name=row.get("name", ""),
        )
        for row in rows
    )
