"""What FuriosaAI's driver tells in sysfs of an RNGD card, as values.

Decides how its files are read: they are those that the vendor's own library reads, and memory is counted as it does.
It must not know device classes, nor how a card is given out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..host import Host
from ..pci import DEVICES
from ..quantities import (
    attribute,
    document,
    identifier,
    measure,
    pci_address,
    power_w,
    temperature_c,
    text_of,
    whole,
)
from ..tools import Completed

CLASS = "/sys/class/rngd_mgmt"
NODES = "/dev/rngd"
PES = 8
PE_BYTES = {"0001": 6_375_342_080, "0002": 9_596_567_552}
"""Memory of one PE by PCI device id, as the vendor's library counts it: 47.5 GiB of an RNGD, 71.5 GiB of an RNGD+."""
HIGHEST_HZ = 1_000_000_000.0
"""Of a PE; recalled from the product brief."""

LIBRARY_TIMEOUT_S = 2.0
TOOL_TIMEOUT_S = 1.5

_MANAGEMENT = re.compile(r"rngd!npu([0-9]{1,4})mgmt")
_PAIR = re.compile(
    r"^[ \t]*(\w{1,64}):[ \t]*(0x[0-9a-fA-F]{1,16}|[0-9]{1,20})[ \t]*$", re.MULTILINE
)
_MOST = 2**64 - 1

_HARDWARE = 0x10 | 0x20 | 0x40
_THROTTLED = ((0x2, "thermal"), (0x4 | 0x8, "power"), (_HARDWARE, "hardware"))
"""Bits of `throttle_reason`; 1 is idling, 0x80 the governor's own choice, and those above have no name yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card. None = it does not tell.

    Attributes:
        index: the N of `npuN` today; it changes when a card is lost, or between boots.
        address: of its PCI function.
        kind: what the driver calls it, where it says so.
        state: `device_state`; 0 is alive.
    """

    index: int
    address: str
    serial: str | None = None
    uuid: str | None = None
    kind: str | None = None
    driver: str | None = None
    firmware: str | None = None
    governor: str | None = None
    state: str | None = None

    @property
    def folder(self) -> str:
        """Its management folder in sysfs."""
        return f"{CLASS}/rngd!npu{self.index}mgmt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """Files of the card's sensors below its PCI function; empty = it has none."""

    temperature: str = ""
    power: str = ""
    limit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a card does now. None = it does not tell.

    Attributes:
        used_bytes: by first PE of each group that a process holds; None in it = that group does not tell.
        cycles: of each held PE: cycles that passed, and those in which a task ran.
        held: PEs that a process holds.
    """

    state: str | None
    temperature_c: float | None
    power_w: float | None
    clock_ratio: float | None
    throttled: tuple[str, ...]
    held: frozenset[int] | None
    used_bytes: Mapping[int, int | None]
    cycles: Mapping[int, tuple[int, int]]


def indices(host: Host) -> tuple[int, ...]:
    """The N of every `npuN` that the driver shows."""
    found = (_MANAGEMENT.fullmatch(name) for name in host.list(CLASS))
    return tuple(sorted({int(f[1]) for f in found if f is not None}))


def card(host: Host, index: int) -> Card | None:
    """A card; None when its folder does not even tell its address."""
    folder = f"{CLASS}/rngd!npu{index}mgmt"
    address = pci_address(host.read(f"{folder}/busname"))
    if address is None:
        return None

    def said(name: str) -> str | None:
        return text_of(host.read(f"{folder}/{name}"))

    return Card(
        index=index,
        address=address,
        serial=identifier(host.read(f"{folder}/device_sn")),
        uuid=identifier(host.read(f"{folder}/device_uuid")),
        kind=said("device_type"),
        driver=_version(said("version")),
        firmware=_version(said("fw_version")),
        governor=said("npu_governor"),
        state=said("device_state"),
    )


def cards_as_told(host: Host) -> dict[int, Card]:
    """Cards by index as the vendor's library, else its tool tells; for a driver whose files they read and we do not."""
    rows = _rows(host.ask("furiosa", "cards", LIBRARY_TIMEOUT_S))
    if not rows:
        rows = _rows(host.run(["furiosa-smi", "info", "--format", "json"], TOOL_TIMEOUT_S))
    made = [_told(_named(row)) for row in rows]
    return {c.index: c for c in made if c is not None}


def sensors(host: Host, address: str) -> Sensors:
    """Where the card's hottest temperature, its power and the limit of it are read."""
    folder = f"{DEVICES}/{address}/hwmon"
    for name in host.list(folder):
        place = f"{folder}/{name}"
        labels = {
            (host.read(f"{place}/{file}") or "").strip(): file.removesuffix("_label")
            for file in host.list(place)
            if file.endswith("_label")
        }
        heat, power = labels.get("PEAK"), labels.get("RMS_TOTAL")
        if heat or power:
            return Sensors(
                temperature=f"{place}/{heat}_input" if heat else "",
                power=f"{place}/{power}_average" if power else "",
                limit=f"{place}/{power}_max" if power else "",
            )
    return Sensors()


def watts(host: Host, file: str) -> float | None:
    """A sensor that tells microwatts."""
    value = measure((host.read(file) or "").strip()) if file else None
    return power_w(value / 1e6) if value is not None else None


def live(host: Host, card: Card, places: Sensors, pe_bytes: int | None) -> Live:
    """What a card does now: few small files while it idles, two more for each PE that a process holds."""
    held = occupied(host.read(f"{card.folder}/pe_occupancy"))
    milli = measure((host.read(places.temperature) or "").strip()) if places.temperature else None
    return Live(
        state=text_of(host.read(f"{card.folder}/device_state")),
        temperature_c=temperature_c(milli / 1000) if milli is not None else None,
        power_w=watts(host, places.power),
        clock_ratio=clock_ratio(host.read(f"{card.folder}/npu_clocks")),
        throttled=throttled(host.read(f"{card.folder}/throttle_reason")),
        held=held,
        used_bytes=dict(_used(host, card.index, held or frozenset(), pe_bytes)),
        cycles=dict(_cycles(host, card.index, held or frozenset())),
    )


def occupied(text: str | None) -> frozenset[int] | None:
    r"""The PEs that a process holds, from one line per PE.

    >>> sorted(occupied("0\n1\n1\n0\n")), occupied("2\n"), occupied("")
    ([1, 2], None, None)
    """
    lines = attribute(text).split()
    if not 0 < len(lines) <= PES or not set(lines) <= {"0", "1"}:
        return None
    return frozenset(pe for pe, line in enumerate(lines) if line == "1")


def throttled(text: str | None) -> tuple[str, ...]:
    """Why a card is slowed down, from its hexadecimal mask.

    >>> throttled("0x1"), throttled("12"), throttled("0xc")
    ((), ('thermal', 'hardware'), ('power',))
    """
    bits = (text or "").strip().lower().removeprefix("0x")
    mask = whole(f"0x{bits}", most=2**32 - 1) or 0
    return tuple(word for bit, word in _THROTTLED if mask & bit)


def clock_ratio(text: str | None) -> float | None:
    r"""The slowest PE's clock over the highest.

    >>> clock_ratio("1000000000\n500000000\n"), clock_ratio("-5"), clock_ratio(None)
    (0.5, None, None)
    """
    clocks = [whole(line, most=10**11) for line in attribute(text).split()]
    known = [hz for hz in clocks if hz]
    return min(1.0, min(known) / HIGHEST_HZ) if known and len(known) == len(clocks) else None


def pairs(text: str | None) -> dict[str, int]:
    """Numbers with names, one to a line: `dram_usage: 0x1000`.

    >>> pairs("dram_capacity: 0xbc0003000")
    {'dram_capacity': 50465878016}
    """
    found = ((name, whole(value, most=_MOST)) for name, value in _PAIR.findall(attribute(text)))
    return {name: value for name, value in found if value is not None}


def _used(
    host: Host, index: int, held: frozenset[int], pe_bytes: int | None
) -> Iterator[tuple[int, int | None]]:
    """Fused PEs share an allocation, which each of them repeats: its capacity says how many they are."""
    counted: set[int] = set()
    for pe in sorted(held):
        if pe in counted:
            continue
        said = pairs(host.read(f"{CLASS}/rngd!npu{index}pe{pe}/alloc_status"))
        capacity = said.get("dram_capacity", 0) + said.get("shared_capacity", 0)
        size = min((1, 2, 4, 8), key=lambda n: abs(n * (pe_bytes or 0) - capacity))
        first = pe - pe % size
        counted.update(range(first, first + size))
        used = said.get("dram_usage", 0) + said.get("shared_usage", 0)
        believed = "dram_usage" in said and used <= size * (pe_bytes or 0)
        yield first, used if believed else None


def _cycles(host: Host, index: int, held: frozenset[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    for pe in sorted(held):
        said = pairs(host.read(f"{CLASS}/rngd!npu{index}pe{pe}/metrics"))
        if "CycleCount" in said and "TaskCycleCount" in said:
            yield pe, (said["CycleCount"], said["TaskCycleCount"])


def _version(text: str | None) -> str | None:
    """`2026.3.0, 2d3f72a` without the hash of its source."""
    return text_of((text or "").partition(",")[0])


def _rows(answer: Completed | None) -> list[dict[str, object]]:
    if answer is None or answer.ended != "exit" or answer.rc != 0:
        return []
    rows = document(answer.out)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _named(row: dict[str, object]) -> dict[str, object]:
    """A row of the tool in the words of the library's script; the tool does not tell whether a card is alive."""
    if "pci_bdf" not in row:
        return row
    name = text_of(row.get("dev_name")) or ""
    return {
        "index": name.removeprefix("npu"),
        "pci": row["pci_bdf"],
        "uuid": row.get("device_uuid"),
        "serial": row.get("device_sn"),
        "product": row.get("arch"),
        "firmware": row.get("firmware"),
    }


def _told(row: Mapping[str, object]) -> Card | None:
    index = whole(row.get("index"), most=9999)
    address = pci_address(row.get("pci"))
    if index is None or address is None:
        return None
    alive = row.get("alive")
    return Card(
        index=index,
        address=address,
        serial=identifier(row.get("serial")),
        uuid=identifier(row.get("uuid")),
        kind=text_of(row.get("product")),
        driver=_version(text_of(row.get("driver"))),
        firmware=_version(text_of(row.get("firmware"))),
        state=None if alive is None else "0" if alive is True else "not alive",
    )
