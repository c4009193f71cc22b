"""Writes the part of `/sys` and `/dev` that FuriosaAI's driver and libraries meet on a machine with RNGD cards.

Decides the shape of the pretended machine: two sockets, cards in pairs below a PCIe switch, eight PEs a card. Where the
driver's own text was never seen the form is one that the vendor's library accepts. It must not know who reads it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..stand_in import StandIn
from . import namespace

CLASS = "sys/class/rngd_mgmt"
CLASS_DEVICES = "sys/devices/virtual/rngd_mgmt"
PCI_DEVICES = "sys/bus/pci/devices"
PES = 8
MAJOR = 234

PRODUCTS = {"FURIOSA_RNGD": ("0001", 6_375_342_080), "FURIOSA_RNGD_PLUS": ("0002", 9_596_567_552)}
"""Device class -> PCI device id, bytes of one PE."""

SHARED_BYTES = 0x1FFFD000
"""Part of a whole card's memory that is told apart; with `dram_capacity: 0xbc0003000`, which was seen, it is all."""

_LOCAL_CPUS = ("0000ffff", "ffff0000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card: where it sits and what it says.

    Attributes:
        index: the `N` of `npuN` today.
        address: of its PCI function; `chain` are the bridges above it.
        state: 0 = alive.
        throttle: bits of `throttle_reason`.
        busy: PEs that processes hold, in groups of `fused`.
        used_bytes: of its memory, by each group.
        cycles: of each held PE, and those in which a task ran.
    """

    index: int
    address: str
    chain: tuple[str, ...]
    numa_node: int
    serial: str
    uuid: str
    state: int = 0
    throttle: int = 1
    temperature_c: float = 40.98
    power_w: float = 38.0
    product: str = "FURIOSA_RNGD"
    busy: tuple[int, ...] = ()
    fused: int = PES
    used_bytes: int = 0
    cycles: int = 1 << 40
    task_cycles: int = 0
    firmware: str = "2026.3.0, 2d3f72a"


def cards(count: int, product: str = "FURIOSA_RNGD") -> tuple[Card, ...]:
    """The first cards of the pretended machine, up to eight: four on each socket, each pair below one switch."""
    if product not in PRODUCTS:
        raise ValueError(f"not a product of this kind: {product}; there are {', '.join(PRODUCTS)}")
    buses = ("27", "2a", "51", "57", "9e", "a4", "c7", "ca")
    if not 0 <= count <= len(buses):
        raise ValueError(f"a machine of this kind has 0 to {len(buses)} cards, not {count}")
    made = []
    for index, bus in enumerate(buses[:count]):
        pair = int(buses[index // 2 * 2], 16)
        made.append(
            Card(
                index=index,
                address=f"0000:{bus}:00.0",
                chain=(
                    f"pci0000:{pair - 4:02x}",
                    f"0000:{pair - 4:02x}:01.0",
                    f"0000:{pair - 2:02x}:00.0",
                    f"0000:{pair - 1:02x}:{index % 2:02x}.0",
                ),
                numa_node=index // 4,
                serial=f"RNG260000000{index}Q",
                product=product,
                uuid=f"5A4D{index:04X}-0708-4606-8000-00000000{index:04X}",
            )
        )
    return tuple(made)


def stand_in(folder: Path, device_class: str, count: int) -> StandIn:
    """See `actors.stand_in`: a private `/sys` and `/dev/rngd`."""
    return StandIn(prefix=namespace.prefix(write(folder, cards(count, device_class))))


def missing() -> str:
    """See `actors.stand_in`."""
    return namespace.reason()


def tree(folder: Path, count: int) -> Path:
    """Writes `sys/` and `dev/devices` of a machine with so many cards below `folder`; returns it.

    `dev/devices` lists what has to be made as character devices: a path, major and minor number by line.
    """
    return write(folder, cards(count))


def write(folder: Path, made: tuple[Card, ...]) -> Path:
    """Writes these cards."""
    for place in (CLASS, CLASS_DEVICES, PCI_DEVICES):
        (folder / place).mkdir(parents=True, exist_ok=True)
    _bridges(folder, made)
    for card in made:
        _pci(folder, card)
        _management(folder, card)
        for pe in range(PES):
            _pe(folder, card, pe)
    listed = [
        f"/dev/rngd/{name} {MAJOR} {card.index * 32 + minor}"
        for card in made
        for minor, name in enumerate(node_names(card.index))
    ]
    _text(folder / "dev/devices", "".join(f"{line}\n" for line in listed))
    return folder


def remove(folder: Path, card: Card) -> None:
    """Takes a card off the bus while the machine runs, as it looks when one is lost; `write` puts it back."""
    (folder / PCI_DEVICES / card.address).unlink(missing_ok=True)
    for link in (folder / CLASS).glob(f"rngd!npu{card.index}[mp]*"):
        link.unlink()


def node_names(index: int) -> tuple[str, ...]:
    """Device files of a card: its management, each PE, and PEs fused by two, four and eight."""
    alone = [f"npu{index}pe{pe}" for pe in range(PES)]
    fused = [
        f"npu{index}pe{first}-{first + size - 1}"
        for size in (2, 4, 8)
        for first in range(0, PES, size)
    ]
    return (f"npu{index}mgmt", *alone, *fused)


def _bridges(folder: Path, made: tuple[Card, ...]) -> None:
    for card in made:
        for depth in range(1, len(card.chain)):
            place = folder / "sys/devices" / "/".join(card.chain[: depth + 1])
            last = int(card.address[5:7], 16)
            _files(
                place,
                vendor="0x8086" if depth == 1 else "0x10b5",
                device="0x347a" if depth == 1 else "0x8747",
                numa_node=card.numa_node,
                secondary_bus_number=int(card.chain[-1][5:7], 16) if depth < 3 else last,
                subordinate_bus_number=last + 3,
                **{"class": "0x060400"},
            )
            _link(folder / PCI_DEVICES / card.chain[depth], place)


def _pci(folder: Path, card: Card) -> None:
    place = folder / "sys/devices" / "/".join((*card.chain, card.address))
    uevent = f"DRIVER=furiosa_rngd\nPCI_CLASS=120000\nPCI_ID=1ED2:{PRODUCTS[card.product][0]}\nPCI_SLOT_NAME={card.address}"
    _files(
        place,
        vendor="0x1ed2",
        device=f"0x{PRODUCTS[card.product][0]}",
        revision="0x01",
        subsystem_vendor="0x1ed2",
        subsystem_device="0x0001",
        numa_node=card.numa_node,
        local_cpus=_LOCAL_CPUS[card.numa_node],
        current_link_speed="32.0 GT/s PCIe",
        current_link_width="16",
        max_link_speed="32.0 GT/s PCIe",
        max_link_width="16",
        sriov_totalvfs=7,
        sriov_numvfs=0,
        uevent=uevent,
        **{"class": "0x120000"},
    )
    _files(
        place / f"hwmon/hwmon{card.index + 2}",
        name="rngd",
        temp1_label="AMBIENT",
        temp1_input=31_000,
        temp2_label="PEAK",
        temp2_input=round(card.temperature_c * 1000),
        power1_label="RMS_TOTAL",
        power1_average=round(card.power_w * 1e6),
        power1_max=180_000_000,
    )
    driver = folder / "sys/bus/pci/drivers/furiosa_rngd"
    driver.mkdir(parents=True, exist_ok=True)
    _link(place / "driver", driver)
    _link(folder / PCI_DEVICES / card.address, place)


def _management(folder: Path, card: Card) -> None:
    occupancy = "\n".join("1" if pe in card.busy else "0" for pe in range(PES))
    _class_device(
        folder,
        f"rngd!npu{card.index}mgmt",
        platform_type="FuriosaAI",
        device_type="RNGD",
        busname=card.address,
        device_uuid=card.uuid,
        device_sn=card.serial,
        dev=f"{MAJOR}:{card.index * 32}",
        version="2026.3.0, 0000000",
        fw_version=card.firmware,
        device_state=card.state,
        pe_occupancy=occupancy,
        npu_clocks="\n".join(["1000000000"] * PES),
        npu_governor="performance",
        throttle_reason=f"0x{card.throttle:x}",
    )


def _pe(folder: Path, card: Card, pe: int) -> None:
    """A free PE says nothing of memory."""
    whole = PRODUCTS[card.product][1] * card.fused
    shared = SHARED_BYTES * card.fused // PES
    held = (
        f"dram_capacity: 0x{whole - shared:x}\ndram_usage: 0x{card.used_bytes:x}\n"
        f"shared_capacity: 0x{shared:x}\nshared_usage: 0x0"
    )
    _class_device(
        folder,
        f"rngd!npu{card.index}pe{pe}",
        alloc_status=held if pe in card.busy else "",
        metrics=f"CycleCount: 0x{card.cycles:x}\nTaskCycleCount: 0x{card.task_cycles:x}",
    )


def _class_device(folder: Path, name: str, **texts: object) -> None:
    _files(folder / CLASS_DEVICES / name, **texts)
    _link(folder / CLASS / name, folder / CLASS_DEVICES / name)


def _files(place: Path, **texts: object) -> None:
    for name, text in texts.items():
        _text(place / name, f"{text}\n")


def _text(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(os.path.relpath(target, place.parent))
