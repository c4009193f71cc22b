"""Google's TPUs as a TPU virtual machine shows them: PCI functions and their device files.

Decides the chip by its PCI device id. What a chip does now is told by libtpu of the process that holds it and by nothing
in sysfs, so there is nothing to poll. It must not know how chips of several machines form a slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from placement.devices import DeviceClass, Kind
from placement.ids import NodeId
from placement.interconnect import Interconnect, LinkKind

from .. import pci
from ..host import Host
from ..offers import offered
from ..pci import PciFunction
from ..probe import Absent, Accelerator, Broken, Found
from ..product import class_of, product_name
from ..vendors import families

_GROUPS = "/dev/vfio"


class TpuProbe:
    """A chip's index is its place in the order of PCI addresses, which is what `TPU_VISIBLE_CHIPS` counts."""

    name: ClassVar[str] = "tpu"

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`."""
        del node
        family = families()["tpu"]
        functions = [
            f for f in pci.pci_functions(host, family.pci, family.pci_classes) if not f.virtual
        ]
        if not functions:
            return Absent()
        files = _files(host, len(functions))
        if not files:
            return Broken(
                reason=f"{len(functions)} TPU chips on PCI, but neither /dev/accel0 nor {_GROUPS}",
                hint=f"in a container, run it privileged or pass the device files; otherwise {family.install}",
            )
        closed = [name for name in files if host.access(name) != "ok"]
        if closed:
            return Broken(
                reason=f"device files of TPU chips may not be opened: {', '.join(closed)}",
                hint="run the agent as root, as TPU VM images do, or give its user these files",
            )
        classes: dict[str, DeviceClass] = {}
        made = [_accelerator(f, k, classes) for k, f in enumerate(functions)]
        return offered(
            Found(
                accelerators=tuple(made),
                classes=tuple(classes.values()),
                links=_links(made, functions),
            )
        )


def _files(host: Host, chips: int) -> list[str]:
    """One file for each chip up to v4; VFIO groups from v5e on."""
    own = [f"/dev/accel{k}" for k in range(chips)]
    there = [name for name in own if host.access(name) != "absent"]
    groups = [name for name in host.list(_GROUPS) if name.isascii() and name.isdigit()]
    return there or [f"{_GROUPS}/{name}" for name in groups]


def _accelerator(function: PciFunction, place: int, classes: dict[str, DeviceClass]) -> Accelerator:
    product = product_name("tpu", function.device) or f"TPU {function.device}"
    known = class_of("tpu", product, Kind.NPU, classes, pci=function.device)
    return Accelerator(
        family="tpu",
        product=product,
        device_class=known.name,
        handle=str(place),
        pci=function.address,
        numa_node=function.numa_node,
    )


def _links(
    made: Sequence[Accelerator], functions: Sequence[PciFunction]
) -> Mapping[tuple[str, str], Interconnect]:
    """The chips of one machine are joined by Google's own interconnect, whatever the PCI tree looks like."""
    tree = pci.links((a.identity, f) for a, f in zip(made, functions, strict=True))
    return {pair: Interconnect(kind=LinkKind.DIRECT) for pair in tree}
