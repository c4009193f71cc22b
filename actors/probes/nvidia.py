"""NVIDIA's GPUs: one accelerator per card, or per instance of a card that is divided (MIG).

Decides when the library is asked at all, which cards may be trusted, and what mends the others. It must not know how
the library is called (`actors/libraries/nvml.py`), nor what a product can do (catalog).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from placement.catalog import catalog
from placement.devices import DeviceClass
from placement.ids import NodeId

from ..host import Host
from ..offers import offered
from ..pci import PciFunction, lanes_note, pci_functions
from ..probe import Absent, Accelerator, Broken, Found
from ..quantities import document, identifier, pci_address, text_of, whole
from ..readers.nvidia_cards import Place, instances, whole_card
from ..readers.nvidia_classes import FAMILY
from ..readers.nvidia_links import Member, joined
from ..readers.nvidia_readings import reading
from ..report import Reading
from ..vendors import families

LIBRARY = "nvml"
ASK_ENV = "SHARDYARD_NVML"
"""Set to 1, the library is asked on a machine that shows neither cards nor a driver."""

FACTS_TIMEOUT_S = 3.0
LIVE_TIMEOUT_S = 1.5

_VERSION = "/proc/driver/nvidia/version"
_CONTROL = "/dev/nvidiactl"
_OTHER_DRIVERS = frozenset({"vfio-pci", "pci-stub"})

_HINTS: Mapping[int, str] = {
    4: "give the user the group of /dev/nvidia*: usermod -aG video <user>",
    9: "load the driver: modprobe nvidia",
    12: "install the driver's library (Debian: apt install libnvidia-ml1); in a container: docker run --gpus all",
    18: "the library and the loaded module are of different versions: reboot, or unload and load the module nvidia",
}
"""By NVML's error code."""

_XID_HINT = "look for its Xid: dmesg | grep NVRM; then reset the card or reboot the node"


class NvidiaProbe:
    """Asks NVML, in a child process, once something in `/sys`, `/proc` or `/dev` says that it is worth it."""

    name: ClassVar[str] = FAMILY
    watches: ClassVar[tuple[str, ...]] = (
        "/proc/driver/nvidia/gpus",
        "/sys/bus/pci/drivers/nvidia",
        "/dev/nvidia-caps",
    )

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`."""
        del node
        functions = _functions(host)
        driver = host.read(_VERSION) is not None or host.access(_CONTROL) != "absent"
        if not driver and host.env(ASK_ENV) != "1":
            return _without_driver(functions)
        if host.access(_CONTROL) == "denied":
            return Broken(reason=f"{_CONTROL} may not be opened", hint=_HINTS[4])
        told = _asked(host)
        return told if isinstance(told, Broken) else _found(host, functions, told)

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`."""
        said = host.ask(LIBRARY, "live", LIVE_TIMEOUT_S)
        told = document(said.out) if said is not None and said.ended == "exit" else None
        told = told if isinstance(told, dict) else {}
        pairs = ((a.identity, reading(told, a)) for a in found.accelerators)
        return {identity: now for identity, now in pairs if now is not None}


@dataclass(slots=True)
class _Harvest:
    """What the cards gave so far."""

    accelerators: list[Accelerator] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    classes: dict[str, DeviceClass] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)

    def take(self, accelerator: Accelerator, member: Member, made: DeviceClass) -> None:
        self.accelerators.append(accelerator)
        self.members.append(member)
        if made.name not in catalog():
            self.classes.setdefault(made.name, made)


def _functions(host: Host) -> tuple[PciFunction, ...]:
    facts = families()[FAMILY]
    return tuple(
        f
        for f in pci_functions(host, facts.pci)
        if f.kind.startswith(facts.pci_classes) and not f.virtual
    )


def _without_driver(functions: Sequence[PciFunction]) -> Absent | Broken:
    """Cards that are handed to virtual machines are not ours to judge."""
    free = [f for f in functions if f.driver not in _OTHER_DRIVERS]
    if not free:
        return Absent()
    held = {f.driver for f in free if f.driver}
    by = f" (held by {', '.join(sorted(held))})" if held else ""
    addresses = ", ".join(f.address for f in free)
    return Broken(
        reason=f"NVIDIA cards without NVIDIA's driver{by}: {addresses}",
        hint=families()[FAMILY].install,
    )


def _asked(host: Host) -> Mapping[str, Any] | Broken:
    said = host.ask(LIBRARY, "facts", FACTS_TIMEOUT_S)
    if said is None:
        return Broken(
            reason="the driver is there, but not the Python package that reads it",
            hint="pip install nvidia-ml-py",
        )
    if said.ended != "exit":
        return Broken(
            reason=f"NVML did not answer within {FACTS_TIMEOUT_S:g} s"
            if said.ended == "timeout"
            else "NVML's answer has no end",
            hint="see whether nvidia-smi answers; keep the driver loaded: nvidia-smi -pm 1",
        )
    told = document(said.out)
    usable = isinstance(told, dict) and ("error" in told or isinstance(told.get("gpus"), list))
    if said.rc != 0 or not usable:
        words = text_of(said.err) or "its answer makes no sense"
        return Broken(
            reason=f"NVML cannot be asked: {words}", hint="pip install --upgrade nvidia-ml-py"
        )
    return _refused(told["error"]) if "error" in told else told


def _refused(error: object) -> Broken:
    told = error if isinstance(error, dict) else {}
    words = text_of(told.get("text")) or "no reason was told"
    hint = _HINTS.get(whole(told.get("code")) or 0, families()[FAMILY].install)
    return Broken(reason=f"NVML cannot be used: {words}", hint=hint)


def _found(
    host: Host, functions: Sequence[PciFunction], told: Mapping[str, Any]
) -> Found | Absent | Broken:
    places = {f.address: f for f in functions}
    driver = text_of(told.get("driver"))
    cuda = text_of(told.get("cuda"))
    harvest = _Harvest()
    for card in _distinct(told.get("gpus"), harvest.broken):
        function = places.pop(pci_address(card.get("pci")) or "", None)
        notes = lanes_note(host, function.folder) if function is not None else ()
        _take(harvest, card, Place(function=function, driver=driver, cuda=cuda, notes=notes))
    harvest.broken.extend(_unread(places.values()))
    if not harvest.accelerators and not harvest.broken:
        return Absent()
    if not harvest.accelerators and len(harvest.broken) == 1:
        return harvest.broken[0]
    return offered(
        Found(
            accelerators=tuple(harvest.accelerators),
            links=joined(harvest.members, told.get("near")),
            classes=tuple(harvest.classes.values()),
            broken=tuple(harvest.broken),
        )
    )


def _distinct(rows: object, broken: list[Broken]) -> Iterator[Mapping[str, Any]]:
    """Cards that say who they are, each once."""
    seen: set[str] = set()
    for row in rows if isinstance(rows, list) else ():
        card = row if isinstance(row, dict) else {}
        name = identifier(card.get("uuid")) or pci_address(card.get("pci"))
        if name is None:
            broken.append(Broken(reason=f"a card {_silence(card)}", hint=_XID_HINT))
        elif name in seen:
            broken.append(
                Broken(
                    reason=f"two cards call themselves {name}; the first one is offered",
                    hint="compare with nvidia-smi -L; a copied virtual machine does this",
                )
            )
        else:
            seen.add(name)
            yield card


def _silence(card: Mapping[str, Any]) -> str:
    error = card.get("error")
    words = text_of(error.get("text")) if isinstance(error, dict) else None
    return f"cannot be opened: {words}" if words else "tells no identity"


def _unread(places: Iterable[PciFunction]) -> Iterator[Broken]:
    for function in places:
        if function.driver not in _OTHER_DRIVERS:
            yield Broken(
                reason=f"the driver does not offer the card at {function.address}",
                hint=_XID_HINT,
            )


def _take(harvest: _Harvest, card: Mapping[str, Any], place: Place) -> None:
    accelerator, made = whole_card(card, place)
    if card.get("mig") is not True:
        harvest.take(
            accelerator,
            Member(identity=accelerator.identity, card=card, function=place.function),
            made,
        )
        return
    parts = instances(card, accelerator, made)
    for part, part_class in parts:
        member = Member(identity=part.identity, card=card, function=place.function, part=True)
        harvest.take(part, member, part_class)
    name = accelerator.uuid or accelerator.pci
    told = card.get("instances")
    if isinstance(told, list) and len(told) > len(parts):
        harvest.broken.append(
            Broken(
                reason=f"{len(told) - len(parts)} instances (MIG) of the card {name} tell no UUID of their own",
                hint="compare with nvidia-smi -L; pip install --upgrade nvidia-ml-py",
            )
        )
    elif not parts:
        harvest.broken.append(
            Broken(
                reason=f"the card {name} is divided (MIG) into no instance",
                hint="nvidia-smi mig -cgi <profile> -C makes instances; nvidia-smi -mig 0 ends the division",
            )
        )
