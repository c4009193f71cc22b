"""Accelerators on PCI that belong to no family: they are named, so that nobody wonders why they are not offered.

Decides what counts as an accelerator nobody reads. It offers no device. A function of a family's vendor is that
family's business, also when it is broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar

from placement.ids import NodeId

from .. import pci
from ..host import Host
from ..pci import PciFunction
from ..probe import Absent, Broken, Found
from ..vendors import families, other_vendors

PROCESSING = "12"
COMPUTE_3D = "0302"
DISPLAY = "03"
PERIPHERAL = "0880"
"""What some accelerators call themselves, Amazon's Neuron for one; counts for vendors of accelerators only."""

SIGNAL = "1180"
_XDNA = frozenset({"1502", "17f0", "17f1", "17f2", "17f3", "1b0a", "1b0b", "1b0c"})
"""Device ids of the NPUs in AMD's processors, those of the kernel driver amdxdna. They call themselves signal processors,
as does the sensor hub beside them, so the ids decide."""

_AMD = "1022"
_PLAIN = frozenset({("1d0f", "1111")})
"""Display adapters of such vendors that only show a console: that of Amazon's virtual machines."""

HINT = (
    "declare it in an inventory file, or add a probe for it: one file in actors/probes or a package with an entry "
    "point shardyard.probes (CONTRIBUTING.md)"
)


class PciScanProbe:
    """Reads one file of each function, and more only of those that may be accelerators."""

    name: ClassVar[str] = "pci-scan"
    watches: ClassVar[tuple[str, ...]] = (pci.DEVICES,)

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`. One `Broken` for each kind of device."""
        del node
        seen = (
            *pci.pci_functions(host, kinds=(PROCESSING, DISPLAY)),
            *pci.pci_functions(host, vendors=other_vendors(), kinds=(PERIPHERAL,)),
            *pci.pci_functions(host, vendors=(_AMD,), kinds=(SIGNAL,)),
        )
        unclaimed = sorted((f for f in seen if _unclaimed(f)), key=_kind)
        if not unclaimed:
            return Absent()
        return Found(
            broken=tuple(_named(vendor, list(group)) for vendor, group in groupby(unclaimed, _kind))
        )


def _unclaimed(function: PciFunction) -> bool:
    """Processing accelerators and 3D controllers of any vendor; plain display adapters only of vendors of accelerators."""
    claimed = any(f.claims(function.vendor, function.kind) for f in families().values())
    if function.virtual or claimed or _kind(function) in _PLAIN:
        return False
    if function.vendor == _AMD and function.kind.startswith(SIGNAL):
        return function.device in _XDNA
    accelerates = function.kind.startswith((PROCESSING, COMPUTE_3D))
    return accelerates or function.vendor in other_vendors()


def _kind(function: PciFunction) -> tuple[str, str]:
    return function.vendor, function.device


def _named(kind: tuple[str, str], functions: Sequence[PciFunction]) -> Broken:
    vendor, device = kind
    xdna = vendor == _AMD and device in _XDNA
    name = "AMD XDNA NPU, PCI" if xdna else other_vendors().get(vendor, "PCI")
    places = ", ".join(f.address for f in functions)
    return Broken(
        reason=f"{name} device {vendor}:{device} at {places} is claimed by no probe", hint=HINT
    )
