"""Qualcomm: Cloud AI cards by their kernel driver, the Hexagon NPU of a Snapdragon through ONNX Runtime.

Decides what sysfs and the runtime prove of each. It must not know how fast they are (catalog).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from placement.devices import DeviceClass, Health, Kind
from placement.ids import NodeId

from .. import pci
from ..endings import said
from ..host import Host
from ..machine import machine_id
from ..offers import DECLARE, offered
from ..pci import PciFunction
from ..probe import Absent, Accelerator, Broken, Found
from ..product import listed, unlisted
from ..quantities import document, identifier, text_of
from ..readers.shared_memory import half_of_ram
from ..vendors import families

TIMEOUT_S = 3.0
PROVIDER = "QNNExecutionProvider"
VENDOR_IDS = (0x17CB, 0x4D4F4351)
"""Of PCI, and of devices that are part of a Qualcomm processor."""

UNNAMED = "ONNX Runtime does not name this NPU, so it may only emulate it"

_DSP = ("/dev/fastrpc-cdsp", "/dev/fastrpc-cdsp-secure", "/dev/adsprpc-smd")
_SOC = "/sys/devices/soc0"
_ACCEL = "/sys/class/accel"


class QualcommProbe:
    """Cards are known by their PCI address, a processor's NPU by the processor's serial."""

    name: ClassVar[str] = "qualcomm"

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`. ONNX Runtime is started only where there is a Hexagon to ask about."""
        del node
        family = families()["qualcomm"]
        functions = [
            f for f in pci.pci_functions(host, family.pci) if family.claims(f.vendor, f.kind)
        ]
        dsp = next((path for path in _DSP if host.access(path) != "absent"), None)
        if not functions and dsp is None:
            return Absent()
        classes: dict[str, DeviceClass] = {}
        nodes = _nodes(host)
        parts = [_card(host, f, nodes.get(f.address), classes) for f in functions]
        if dsp is not None:
            parts.append(_hexagon(host, dsp, classes))
        good = tuple(part for part in parts if isinstance(part, Accelerator))
        bad = tuple(part for part in parts if isinstance(part, Broken))
        if not good:
            return bad[0]
        cards = {f.address: f for f in functions if len(f.chain) > 1}
        return offered(
            Found(
                accelerators=good,
                classes=tuple(classes.values()),
                links=pci.links([(a.identity, cards[a.pci]) for a in good if a.pci in cards]),
                broken=bad,
            )
        )


def _nodes(host: Host) -> dict[str, str]:
    """PCI address -> name of the device file, e.g. `accel0`."""
    names = [name for name in host.list(_ACCEL) if re.fullmatch(r"accel[0-9]{1,4}", name)]
    places = ((pci.address_of(host, f"{_ACCEL}/{name}"), name) for name in names)
    return {address: name for address, name in places if address is not None}


def _card(
    host: Host, function: PciFunction, node: str | None, classes: dict[str, DeviceClass]
) -> Accelerator | Broken:
    where = f"Cloud AI card at {function.address}"
    if node is None:
        return Broken(
            reason=f"{where}: the driver qaic does not hold it", hint=families()["qualcomm"].install
        )
    if host.access(f"/dev/accel/{node}") == "denied":
        return Broken(
            reason=f"{where}: /dev/accel/{node} may not be opened",
            hint=f"usermod -aG {families()['qualcomm'].group} USER, then log in again",
        )
    product = f"Cloud AI (PCI {function.device})"
    known = listed("qualcomm", product, pci=function.device)
    if known is None:
        return Broken(
            reason=f"{where}: no interface that is read here tells the memory of {product}",
            hint=DECLARE,
        )
    return Accelerator(
        family="qualcomm",
        product=product,
        device_class=known.name,
        handle=node,
        pci=function.address,
        numa_node=function.numa_node,
        notes=(("memory", "not told by the driver; that of the smallest card is counted"),),
    )


def _hexagon(host: Host, dsp: str, classes: dict[str, DeviceClass]) -> Accelerator | Broken:
    if host.access(dsp) == "denied":
        return Broken(
            reason=f"Hexagon NPU: {dsp} may not be opened",
            hint=f"give the agent's user the group of {dsp}, then log in again",
        )
    text, wrong = said("ONNX Runtime", host.ask("onnxruntime", "devices", TIMEOUT_S))
    told = document(text)
    if not wrong and not (isinstance(told, dict) and PROVIDER in _names(told.get("providers"))):
        wrong = f"ONNX Runtime has no {PROVIDER}"
    if wrong:
        return Broken(reason=f"Hexagon NPU: {wrong}", hint=families()["qualcomm"].install)
    machine = text_of(host.read(f"{_SOC}/machine"))
    product = f"Hexagon NPU of {machine or 'an unknown Snapdragon'}"
    memory = half_of_ram(host)
    known = listed("qualcomm", product)
    if known is None:
        known = unlisted(
            vendor="qualcomm", kind=Kind.NPU, product=product, memory_bytes=memory, power_w=15.0
        )
        classes[known.name] = known
    return Accelerator(
        family="qualcomm",
        product=product,
        device_class=known.name,
        handle=PROVIDER,
        serial=_serial(host),
        part="cdsp",
        memory_bytes=memory,
        health=Health.HEALTHY if _named(told) else Health.DEGRADED,
        evidence=() if _named(told) else (UNNAMED,),
        notes=(("runtime", f"ONNX Runtime {told.get('version')}"), ("memory", "half of the RAM")),
    )


def _names(given: Any) -> list[str]:
    return [name for name in given if isinstance(name, str)] if isinstance(given, list) else []


def _named(told: Mapping[str, Any]) -> bool:
    """Whether the provider offers itself for a Qualcomm NPU. Being installed alone proves nothing: it is on any x86, too."""
    offers = told.get("offers")
    return isinstance(offers, list) and any(
        isinstance(one, dict)
        and one.get("provider") == PROVIDER
        and one.get("type") == "NPU"
        and one.get("vendor_id") in VENDOR_IDS
        for one in offers
    )


def _serial(host: Host) -> str | None:
    told = identifier(host.read(f"{_SOC}/serial_number"))
    machine = machine_id(host)
    if told is not None or machine is None:
        return told
    return f"machine-{hashlib.sha256(machine.encode()).hexdigest()[:12]}"
