"""Builds a library that stands in for NVIDIA's and writes the file of cards that it tells of.

Decides what a pretended card of a product says. What reads it (nvidia-ml-py, Ray) is real. It must not know any reader.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from placement.catalog import catalog
from placement.units import GIB, MIB

from ..errors import DeviceError
from ..names import STAND_IN_ENV
from ..stand_in import StandIn

CARDS_ENV = "SHARDYARD_STANDIN_NVML"
ASK_ENV = "SHARDYARD_NVML"
LIBRARY_NAME = "libnvidia-ml.so.1"
MOST_CARDS = 64
BUILD_DEADLINE_S = 60.0
COMPILERS = ("cc", "gcc", "clang")

_NVLINKS = {"NVIDIA_H100_80G": 18, "NVIDIA_H200_141G": 18, "NVIDIA_A100_80G": 12}
_NVLINK_VERSION = {18: 6, 12: 4}
"""NVML's numbers of the generations 4.0 and 3.0."""


class CannotBuildStandIn(DeviceError):
    """There is no C compiler here, or it refused; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card as NVML would tell it; None = the card does not support the question.

    Attributes:
        reasons: NVML's bits of why its clock is lower than it could be; 1 = idle.
        links: active NVLinks, all to switches or, with `peer`, all to the card at that address.
        recovery, fabric: NVML's numbers of what the driver asks for, and of how far the NVLink fabric is set up.
        xid: an error that is reported once.
        lost: the driver has lost the card.
        mig: it is divided; its instances are cards with `parent` (its UUID), `gi`, `ci` and `slices`.
    """

    name: str
    uuid: str
    pci: str
    mib: int
    serial: str | None = None
    device: str | None = None
    numa: int | None = None
    limit_mw: int | None = None
    links: int | None = None
    nvlink: int | None = None
    peer: str | None = None
    capability: int | None = None
    sm_mhz: int | None = 1980
    clock_mhz: int | None = 345
    memory_mhz: int | None = None
    slowdown_c: int | None = 87
    used_mib: int | None = 0
    busy: int | None = 0
    temperature_c: int | None = 34
    power_mw: int | None = 70_000
    reasons: int | None = 1
    ecc: int | None = 0
    remap_pending: int | None = 0
    xid: int | None = None
    lost: int | None = None
    recovery: int | None = None
    fabric: int | None = None
    nvlink_mbyte_per_s: int | None = None
    mig: int | None = None
    parent: str | None = None
    gi: int | None = None
    ci: int | None = None
    slices: int | None = None


def cards(class_name: str, count: int, seed: str = "") -> tuple[Card, ...]:
    """Equal cards of a class of the catalog, half of them on each of two sockets.

    Args:
        seed: cards of another seed have other UUIDs, so that pretended nodes do not share theirs.

    Raises:
        ValueError: the class is no product of NVIDIA's, or nobody has so many cards.

    >>> cards("NVIDIA_H100_80G", 2)[1].pci
    '0000:1b:00.0'
    """
    row = _products().get(class_name)
    if row is None or not 0 <= count <= MOST_CARDS:
        raise ValueError(f"no stand-in for {count} cards of {class_name}")
    known = catalog()[class_name]
    links = _NVLINKS.get(class_name)
    return tuple(
        Card(
            name=row["name"],
            uuid=f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{seed}/{class_name}/{index}')}",
            serial=f"STANDIN{index:04d}",
            pci=f"0000:{0x1A + index:02x}:00.0",
            mib=row.get("mib", int(row["gib"] * GIB / MIB)),
            numa=index * 2 // max(count, 1),
            limit_mw=round(known.power_w * 1000),
            links=links,
            nvlink=_NVLINK_VERSION.get(links or 0),
        )
        for index in range(count)
    )


def describe(made: Sequence[Card]) -> str:
    """The text that the library reads; see `nvml.c`.

    >>> describe([Card(name="Tesla T4", uuid="GPU-1", pci="0000:3b:00.0", mib=15360, numa=0)]).split()[:4]
    ['Tesla', 'T4|uuid=GPU-1', 'pci=0000:3b:00.0', 'mib=15360']
    """
    return "".join(_line(card) for card in made)


def write(place: Path, made: Sequence[Card]) -> None:
    """Replaces the file at once, so that no reader meets half of it."""
    whole = place.with_suffix(".new")
    whole.write_text(describe(made), encoding="utf-8")
    whole.replace(place)


def build(folder: Path) -> Path:
    """The library, compiled into a folder; one that is there already is taken.

    Raises:
        CannotBuildStandIn: with the reason.
    """
    target = folder / LIBRARY_NAME
    if target.exists():
        return target
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise CannotBuildStandIn(missing())
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f".{os.getpid()}.so"
    source = str(files("actors") / "standins" / "nvml.c")
    options = ["-shared", "-fPIC", "-O1", f"-Wl,-soname,{LIBRARY_NAME}"]
    done = subprocess.run(  # noqa: S603 - the system's compiler on our own source
        [compiler, *options, "-o", str(made), source],
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE_S,
        check=False,
    )
    if done.returncode != 0:
        raise CannotBuildStandIn(f"{compiler} refused: {done.stderr[:500]}")
    made.replace(target)
    return target


def environment(folder: Path, class_name: str, count: int) -> dict[str, str]:
    """What a process on the pretended machine needs in its environment, before it starts.

    Raises:
        CannotBuildStandIn: there is no compiler.
        ValueError: see `cards`.
    """
    library = build(folder)
    place = folder / "cards.txt"
    write(place, cards(class_name, count, seed=str(folder)))
    return {
        "LD_LIBRARY_PATH": str(library.parent),
        CARDS_ENV: str(place),
        ASK_ENV: "1",
        STAND_IN_ENV: "1",
    }


def stand_in(folder: Path, device_class: str, count: int) -> StandIn:
    """See `actors.stand_in`."""
    return StandIn(environment=environment(folder, device_class, count))


def missing() -> str:
    """See `actors.stand_in`."""
    found = any(shutil.which(name) for name in COMPILERS)
    return "" if found else "no C compiler is installed (Debian: apt install gcc)"


def _line(card: Card) -> str:
    told = {
        key: getattr(card, key)
        for key in Card.__dataclass_fields__
        if key not in ("name", "device")
    }
    words = [f"{key}={value}" for key, value in told.items() if value is not None]
    if card.device is not None:
        words.append(f"device=0x{card.device}")
    return f"{card.name}|{' '.join(words)}\n"


@cache
def _products() -> dict[str, dict[str, Any]]:
    text = (files("actors") / "products" / "nvidia.toml").read_text("utf-8")
    rows: list[dict[str, Any]] = tomllib.loads(text)["products"]
    return {row["class"]: row for row in reversed(rows) if "name" in row}
