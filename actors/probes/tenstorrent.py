"""Tenstorrent's boards, as their kernel driver tt-kmd tells in sysfs, and `tt-smi` for drivers that do not.

Decides which chip is a device: each that is on PCI. A chip that is reached only through another one (the second of an
n300) belongs to that one's class. It must not know how fast a board is (catalog).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from placement.devices import DeviceClass, Health, Kind
from placement.ids import NodeId
from placement.interconnect import Interconnect, LinkKind

from .. import pci
from ..host import Host
from ..offers import offered
from ..pci import PciFunction
from ..probe import Absent, Accelerator, Broken, Found
from ..product import class_of
from ..quantities import identifier, text_of, whole
from ..readers import hwmon, tt_smi
from ..readers.tt_smi import Board
from ..report import Reading
from ..vendors import families

CLASS = "/sys/class/tenstorrent"
SENSORS = ("asic_temp", "power")
STILL_S = 5.0
"""A firmware whose heartbeat stands still for so long is dead; it beats several times a second."""

_UNTOLD = Board()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chip:
    """A function with its class folder, and the number N of its device file `/dev/tenstorrent/N`."""

    function: PciFunction
    number: str
    folder: str
    board: Board = _UNTOLD

    @property
    def file(self) -> str:
        return f"/dev/tenstorrent/{self.number}"


@dataclass(slots=True)
class _Pulse:
    """A heartbeat and since when it has had that value; how often the chip was too hot."""

    beat: int
    since_s: float
    trips: int | None


@dataclass(slots=True)
class TenstorrentProbe:
    """A handle is the number of the device file; it may be another one after a reset, so it identifies nothing."""

    name: ClassVar[str] = "tenstorrent"
    watches: ClassVar[tuple[str, ...]] = (CLASS, pci.DEVICES)

    _monitors: dict[str, hwmon.Monitor] = field(default_factory=dict)
    _folders: dict[str, str] = field(default_factory=dict)
    _pulses: dict[str, _Pulse] = field(default_factory=dict)

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`."""
        del node
        family = families()["tenstorrent"]
        functions = [
            f for f in pci.pci_functions(host, family.pci, family.pci_classes) if not f.virtual
        ]
        if not functions:
            return Absent()
        chips = [chip for f in functions if (chip := _chip(host, f)) is not None]
        held = {chip.function.address for chip in chips}
        broken = [
            *_undriven([f for f in functions if f.address not in held]),
            *_closed(host, chips),
        ]
        usable, silent = _completed(host, [c for c in chips if host.access(c.file) == "ok"])
        if not usable:
            return broken[0]
        self._monitors = {
            c.function.address: hwmon.monitor(host, c.function.folder, SENSORS) for c in usable
        }
        self._folders = {c.function.address: c.folder for c in usable}
        return self._found(host, usable, (*broken, *silent))

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`."""
        known = [(a.identity, a.pci) for a in found.accelerators if a.pci in self._folders]
        self._pulses = {k: v for k, v in self._pulses.items() if k in dict(known)}
        return {identity: self._reading(host, identity, pci or "") for identity, pci in known}

    def _found(self, host: Host, chips: Sequence[_Chip], broken: tuple[Broken, ...]) -> Found:
        classes: dict[str, DeviceClass] = {}
        made = [_accelerator(host, c, self._monitors[c.function.address], classes) for c in chips]
        return offered(
            Found(
                accelerators=tuple(made),
                classes=tuple(classes.values()),
                links=_links(made, chips),
                broken=broken,
            )
        )

    def _reading(self, host: Host, identity: str, address: str) -> Reading:
        monitor, folder = self._monitors[address], self._folders[address]
        trips = _number(host, f"{folder}/tt_therm_trip_count")
        beat, now = _number(host, f"{folder}/tt_heartbeat"), host.clock_s()
        before = self._pulses.get(identity)
        still = before is not None and before.beat == beat and now - before.since_s >= STILL_S
        hot = trips is not None and before is not None and trips > (before.trips or 0)
        if beat is not None and (before is None or before.beat != beat):
            self._pulses[identity] = _Pulse(beat=beat, since_s=now, trips=trips)
        return Reading(
            temperature_c=monitor.temperature_c(host),
            power_w=monitor.power_w(host),
            throttled=("thermal",) if hot else (),
            faults=("the heartbeat of its firmware stands still",) if still else (),
        )


def _chip(host: Host, function: PciFunction) -> _Chip | None:
    for name in host.list(f"{function.folder}/tenstorrent"):
        number = name.removeprefix("tenstorrent!")
        if number.isascii() and number.isdigit():
            folder = f"{function.folder}/tenstorrent/{name}"
            return _Chip(function=function, number=number, folder=folder)
    return None


def _completed(host: Host, chips: Sequence[_Chip]) -> tuple[list[_Chip], tuple[Broken, ...]]:
    """With what `tt-smi` says, when a driver does not even tell what a card is."""
    if not chips or all(text_of(host.read(f"{c.folder}/tt_card_type")) for c in chips):
        return list(chips), ()
    told, wrong = tt_smi.boards(host)
    full = [
        _Chip(
            function=c.function,
            number=c.number,
            folder=c.folder,
            board=told.get(c.function.address, _UNTOLD),
        )
        for c in chips
    ]
    hint = "update the driver tt-kmd to 2.4 or newer, or install tt-smi in /usr/local/bin"
    return full, (
        Broken(reason=f"boards do not tell their type, and {wrong}", hint=hint),
    ) if wrong else ()


def _accelerator(
    host: Host, chip: _Chip, monitor: hwmon.Monitor, classes: dict[str, DeviceClass]
) -> Accelerator:
    board, folder = chip.board, chip.folder
    kind = text_of(host.read(f"{folder}/tt_card_type")) or board.kind or chip.function.device
    product = f"Tenstorrent {kind}"
    known = class_of("tenstorrent", product, Kind.NPU, classes)
    serial = identifier(host.read(f"{folder}/tt_serial")) or board.serial
    bad = board.memory_works is False
    return Accelerator(
        family="tenstorrent",
        product=product,
        device_class=known.name,
        handle=chip.number,
        serial=serial,
        uuid=identifier(host.read(f"{folder}/tt_asic_id")),
        pci=chip.function.address,
        board=serial,
        numa_node=chip.function.numa_node,
        driver=text_of(host.read("/sys/module/tenstorrent/version")),
        firmware=text_of(host.read(f"{folder}/tt_fw_bundle_ver")) or board.firmware,
        power_limit_w=monitor.power_limit_w(host) or board.power_limit_w,
        temperature_limit_c=monitor.limit_c(host) or board.temperature_limit_c,
        health=Health.DEGRADED if bad else Health.HEALTHY,
        evidence=("tt-smi says that its memory was not trained",) if bad else (),
        notes=pci.lanes_note(host, chip.function.folder),
    )


def _links(
    made: Sequence[Accelerator], chips: Sequence[_Chip]
) -> Mapping[tuple[str, str], Interconnect]:
    """Chips of one board, else the PCI tree; which boards are cabled together is not in sysfs."""
    links = pci.links((a.identity, c.function) for a, c in zip(made, chips, strict=True))
    boards = {a.identity: a.board for a in made}
    return {
        (a, b): Interconnect(kind=LinkKind.SAME)
        if boards[a] is not None and boards[a] == boards[b]
        else link
        for (a, b), link in links.items()
    }


def _undriven(functions: Sequence[PciFunction]) -> Iterator[Broken]:
    if functions:
        names = ", ".join(f"{f.address} ({f.driver or 'no driver'})" for f in functions)
        hint = f"{families()['tenstorrent'].install}, then: modprobe tenstorrent"
        yield Broken(reason=f"Tenstorrent chips without their driver: {names}", hint=hint)


def _closed(host: Host, chips: Sequence[_Chip]) -> Iterator[Broken]:
    for chip in chips:
        access = host.access(chip.file)
        if access != "ok":
            denied = "give the agent's user read and write access to it with a udev rule"
            absent = "in a container, pass --device /dev/tenstorrent"
            yield Broken(
                reason=f"{chip.file} is {access}", hint=denied if access == "denied" else absent
            )


def _number(host: Host, file: str) -> int | None:
    return whole((host.read(file) or "").strip(), most=2**32)
