"""The PCI functions of a machine as sysfs tells them, and how close two of them are.

Decides what follows from the tree of bridges. It must not know whose devices they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from placement.interconnect import Interconnect, LinkKind

from .host import Host
from .quantities import attribute, pci_address, text_of, whole

DEVICES = "/sys/bus/pci/devices"


@dataclass(frozen=True, slots=True, kw_only=True)
class PciFunction:
    """One function. None = sysfs does not say.

    Attributes:
        vendor, device: ids, four hexadecimal digits.
        kind: class code, six hexadecimal digits, e.g. `030200` for a 3D controller, `120000` for an accelerator.
        driver: name of the kernel driver that holds it; empty = none.
        chain: addresses and names from the root complex down to the function, for `link`.
        virtual: it is a virtual function (SR-IOV) of another one.
    """

    address: str
    vendor: str
    device: str
    kind: str
    driver: str = ""
    numa_node: int | None = None
    chain: tuple[str, ...] = ()
    virtual: bool = False

    @property
    def folder(self) -> str:
        """Its folder in sysfs."""
        return f"{DEVICES}/{self.address}"


def pci_functions(
    host: Host, vendors: Iterable[str] = (), kinds: Iterable[str] = ()
) -> tuple[PciFunction, ...]:
    """The functions of these vendor ids and beginnings of class codes, by address; all, where none is named."""
    wanted, prefixes = {v.lower() for v in vendors}, tuple(kinds)
    found: list[PciFunction] = []
    for name in host.list(DEVICES):
        address, folder = pci_address(name), f"{DEVICES}/{name}"
        if address is None:
            continue
        # A server has hundreds of functions: what rules one out is read before the rest of it.
        if wanted and _id(host.read(f"{folder}/vendor"), 4) not in wanted:
            continue
        if prefixes and not (_id(host.read(f"{folder}/class"), 6) or "").startswith(prefixes):
            continue
        function = pci_function(host, address)
        if function is not None:
            found.append(function)
    return tuple(found)


def pci_function(host: Host, address: str) -> PciFunction | None:
    """The function at an address; None when sysfs does not know it."""
    folder = f"{DEVICES}/{address}"
    vendor = _id(host.read(f"{folder}/vendor"), 4)
    device = _id(host.read(f"{folder}/device"), 4)
    kind = _id(host.read(f"{folder}/class"), 6)
    if vendor is None or device is None or kind is None:
        return None
    place = host.resolve(folder) or ""
    return PciFunction(
        address=address,
        vendor=vendor,
        device=device,
        kind=kind,
        driver=_driver(host, folder),
        numa_node=numa_node(host, folder),
        chain=tuple(
            re.findall(
                r"pci[0-9a-f]{4}:[0-9a-f]{2}|[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", place
            )
        ),
        virtual=host.resolve(f"{folder}/physfn") is not None,
    )


def numa_node(host: Host, folder: str) -> int | None:
    """The NUMA domain of a device folder; the kernel's -1 is unknown."""
    return whole(host.read(f"{folder}/numa_node"), most=4095)


def address_of(host: Host, folder: str) -> str | None:
    """The PCI address of a class device such as `/sys/class/drm/card0`, from its `device/uevent`."""
    for line in attribute(host.read(f"{folder}/device/uevent")).splitlines():
        key, _, value = line.partition("=")
        if key == "PCI_SLOT_NAME":
            return pci_address(value)
    return None


def link(one: PciFunction, other: PciFunction) -> Interconnect:
    """How two functions are joined: by the deepest bridge that both hang below."""
    shared = 0
    for a, b in zip(one.chain, other.chain, strict=False):
        if a != b:
            break
        shared += 1
    if one.address.rpartition(".")[0] == other.address.rpartition(".")[0]:
        return Interconnect(kind=LinkKind.SAME)
    # The first name of a chain is the host bridge, the second its root port: a common second one means a switch.
    if shared >= 2:
        return Interconnect(kind=LinkKind.SWITCH)
    if shared == 1:
        return Interconnect(kind=LinkKind.HOST_BRIDGE)
    if one.numa_node is not None and one.numa_node == other.numa_node:
        return Interconnect(kind=LinkKind.NUMA)
    return Interconnect(kind=LinkKind.SYSTEM)


def links(
    members: Iterable[tuple[str, PciFunction]],
) -> dict[tuple[str, str], Interconnect]:
    """Every pair of devices, given by identity and function."""
    return {(a, b): link(one, other) for (a, one), (b, other) in combinations(list(members), 2)}


def lanes_note(host: Host, folder: str) -> tuple[tuple[str, str], ...]:
    """The PCIe link as a note for people, e.g. `("pcie", "16.0 GT/s x8 of 32.0 GT/s x16")`; empty when unknown."""
    now = [text_of(host.read(f"{folder}/current_link_{part}")) for part in ("speed", "width")]
    top = [text_of(host.read(f"{folder}/max_link_{part}")) for part in ("speed", "width")]
    if None in now:
        return ()
    said = _lanes(now)
    return (("pcie", said if None in top or now == top else f"{said} of {_lanes(top)}"),)


def _lanes(pair: list[str | None]) -> str:
    return f"{(pair[0] or '').removesuffix(' PCIe')} x{pair[1]}"


def _driver(host: Host, folder: str) -> str:
    for line in attribute(host.read(f"{folder}/uevent")).splitlines():
        key, _, value = line.partition("=")
        if key == "DRIVER":
            return value.strip()
    return (host.resolve(f"{folder}/driver") or "").rpartition("/")[2]


def _id(text: str | None, digits: int) -> str | None:
    value = whole((text or "").strip(), most=16**digits - 1)
    return None if value is None else f"{value:0{digits}x}"
