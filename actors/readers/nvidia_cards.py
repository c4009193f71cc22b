"""From NVML's document of a card to accelerators: the card itself, or the instances that it is divided into.

Decides which of its figures are believed. It must not know how the card was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from placement.devices import DeviceClass, Health

from ..pci import PciFunction
from ..probe import Accelerator
from ..quantities import identifier, pci_address, size_bytes, temperature_c, text_of, whole
from .nvidia_classes import FAMILY, card_class, instance_bytes, instance_class, profile, watts
from .nvidia_health import evidence, lost

NAMELESS = "it tells no UUID, by which programs are given a card"

_NOTES = (
    ("capability", "compute capability"),
    ("cores", "cores"),
    ("bus_bits", "memory bus bits"),
    ("sm_mhz", "highest SM clock MHz"),
    ("ecc_uncorrected_ever", "uncorrectable ECC errors ever"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is known of a card from elsewhere: sysfs, and the node's driver."""

    function: PciFunction | None = None
    driver: str | None = None
    cuda: str | None = None
    notes: tuple[tuple[str, str], ...] = ()


def whole_card(card: Mapping[str, Any], place: Place) -> tuple[Accelerator, DeviceClass]:
    """The card as one accelerator, and its class."""
    memory = size_bytes(card.get("memory_total"))
    made = card_class(card, memory)
    uuid, serial = identifier(card.get("uuid")), identifier(card.get("serial"))
    function = place.function
    numa = function.numa_node if function is not None else None
    said = (*evidence(card), *(() if uuid else (NAMELESS,)))
    accelerator = Accelerator(
        family=FAMILY,
        product=text_of(card.get("name")) or "NVIDIA GPU",
        device_class=made.name,
        handle=uuid or "",
        serial=serial,
        uuid=uuid,
        pci=function.address if function is not None else pci_address(card.get("pci")),
        board=serial or uuid,
        memory_bytes=memory,
        numa_node=numa if numa is not None else whole(card.get("numa"), most=4095),
        driver=place.driver,
        firmware=text_of(card.get("vbios")),
        power_limit_w=watts(card.get("power_limit_mw")),
        temperature_limit_c=_temperature_limit(card),
        health=Health.LOST if lost(card) else Health.DEGRADED if said else Health.HEALTHY,
        evidence=said,
        notes=(*_notes(card, place), *place.notes),
    )
    return accelerator, made


def instances(
    card: Mapping[str, Any], parent: Accelerator, parent_class: DeviceClass
) -> list[tuple[Accelerator, DeviceClass]]:
    """The instances of a card that is divided (MIG), each with a class of its own size."""
    told = card.get("instances")
    rows = [r for r in told if isinstance(r, dict)] if isinstance(told, list) else []
    named = {uuid: r for r in reversed(rows) if (uuid := identifier(r.get("uuid")))}
    sharing = Counter(whole(r.get("gi")) for r in named.values())
    return [
        _instance(row, uuid, sharing[whole(row.get("gi"))], card, parent, parent_class)
        for uuid, row in sorted(named.items(), key=lambda pair: _order(pair[1]))
    ]


def _instance(
    row: Mapping[str, Any],
    uuid: str,
    sharing: int,
    card: Mapping[str, Any],
    parent: Accelerator,
    parent_class: DeviceClass,
) -> tuple[Accelerator, DeviceClass]:
    memory = instance_bytes(row, sharing)
    made = instance_class(parent_class, parent.memory_bytes, row, memory)
    place = f"{_number(row.get('gi'))}.{_number(row.get('ci'))}"
    said = evidence(card, whole(row.get("gi")))
    word = Health.DEGRADED if said else Health.HEALTHY
    return replace(
        parent,
        device_class=made.name,
        handle=uuid,
        uuid=uuid,
        part=f"mig:{profile(row)}:{place}",
        memory_bytes=memory,
        # The card's limit is not the instance's, and one card's watts must not be counted seven times.
        power_limit_w=None,
        health=Health.LOST if parent.health is Health.LOST else word,
        evidence=said,
    ), made


def _temperature_limit(card: Mapping[str, Any]) -> float | None:
    limits = (temperature_c(card.get(key)) for key in ("slowdown_c", "highest_c", "shutdown_c"))
    return next((limit for limit in limits if limit is not None and limit > 0.0), None)


def _notes(card: Mapping[str, Any], place: Place) -> Iterator[tuple[str, str]]:
    if place.cuda:
        yield "cuda", place.cuda
    for key, word in _NOTES:
        value = card.get(key)
        if isinstance(value, (int, str)) and not isinstance(value, bool) and value:
            yield word, str(value)[:40]
    if isinstance(card.get("ecc"), bool):
        yield "ecc", "on" if card["ecc"] else "off"


def _order(row: Mapping[str, Any]) -> tuple[int, int]:
    return whole(row.get("gi")) or 0, whole(row.get("ci")) or 0


def _number(given: object) -> str:
    value = whole(given)
    return "?" if value is None else str(value)
