"""The devices that Rebellions' driver shows in sysfs, and those of them that this process may open.

Decides which of them count: not a physical function whose virtual ones carry the work, nor one without a device file
here, which is how a container is given some of a machine's devices. It must not know tools or daemons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..host import Access, Host
from ..pci import PciFunction, address_of, lanes_note, pci_function
from ..quantities import measure, power_w, size_bytes, temperature_c, text_of, used_bytes, whole
from ..report import Reading
from .rbln_smi import NAME
from .rbln_told import by_state

CLASS = "/sys/class/rebellions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One device of the driver; None = it does not say.

    Attributes:
        name: the kernel's, e.g. `rbln2`.
        position: its place among the device files here, as `RBLN_VISIBLE_DEVICES` counts; None = it has none.
        access: to its device file.
    """

    name: str
    position: int | None
    access: Access
    pci: str | None
    function: PciFunction | None = None
    product: str | None = None
    memory_bytes: int | None = None
    driver: str | None = None
    evidence: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


def names(host: Host, folder: str) -> tuple[str, ...]:
    """Devices by the names in `/dev` or in the class folder, in the order of their numbers.

    Virtual functions of a physical one that is shared have names of another form; they are a guest's.
    """
    there = (name for name in host.list(folder) if NAME.fullmatch(name))
    return tuple(sorted(there, key=lambda name: int(name.removeprefix("rbln"))))


def cards(host: Host) -> tuple[Card, ...]:
    """Every device that can carry work, also those that this process may not open."""
    files = names(host, "/dev")
    return tuple(
        _card(host, name, files)
        for name in names(host, CLASS)
        if not whole(host.read(f"{CLASS}/{name}/device/sriov_numvfs"))
    )


def addresses(host: Host) -> dict[str, str]:
    """PCI address -> the kernel's name of it today."""
    found = {address_of(host, f"{CLASS}/{name}"): name for name in names(host, CLASS)}
    return {address: name for address, name in found.items() if address}


def readings(host: Host) -> dict[str, Reading]:
    """What sysfs tells of the devices now, by kernel name; power is the whole card's."""
    return {name: _reading(host, name) for name in names(host, CLASS)}


def _reading(host: Host, name: str) -> Reading:
    folder = f"{CLASS}/{name}"
    known = Reading(
        memory_used_bytes=used_bytes(host.read(f"{folder}/dram_used")),
        faults=by_state(whole(host.read(f"{folder}/status")), "the driver"),
    )
    for monitor in host.list(f"{folder}/device/hwmon"):
        place = f"{folder}/device/hwmon/{monitor}"
        return replace(
            known,
            temperature_c=temperature_c(_times(host.read(f"{place}/temp1_input"), 1e-3)),
            power_w=power_w(_times(host.read(f"{place}/power1_input"), 1e-6)),
        )
    return known


def _card(host: Host, name: str, files: tuple[str, ...]) -> Card:
    folder = f"{CLASS}/{name}"
    address = address_of(host, folder)
    function = pci_function(host, address) if address else None
    return Card(
        name=name,
        position=files.index(name) if name in files else None,
        access=host.access(f"/dev/{name}"),
        pci=address,
        function=function,
        product=text_of(host.read(f"{folder}/card_name")),
        memory_bytes=size_bytes(host.read(f"{folder}/dram_total")),
        driver=text_of(host.read(f"{folder}/kernel_version")),
        evidence=by_state(whole(host.read(f"{folder}/status")), "the driver"),
        notes=lanes_note(host, function.folder) if function else (),
    )


def _times(text: str | None, factor: float) -> float | None:
    value = measure(text)
    return None if value is None else value * factor
