"""What NVIDIA's cards do now, from NVML's document of live values.

Decides which clock reasons mean that a card is slowed down. It must not know how the document was got.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..probe import Accelerator
from ..quantities import ratio, temperature_c, used_bytes, whole
from ..report import Reading
from .nvidia_classes import watts
from .nvidia_health import evidence

_REASONS = (
    ("thermal", 0x20 | 0x40),
    ("power", 0x04 | 0x80),
    ("hardware", 0x08),
)
"""NVML's bits: software and hardware thermal slowdown; software power cap and power brake; hardware slowdown. An idle card
(0x01), clocks that the operator set (0x02) and boards in step (0x10) are not slowed down against their will."""


def reading(told: Mapping[str, Any], accelerator: Accelerator) -> Reading | None:
    """An accelerator's own row; None when it does not answer."""
    cards, parts = _rows(told, "gpus"), _rows(told, "instances")
    if not accelerator.part:
        return _of_card(cards.get(accelerator.uuid or ""))
    part = parts.get(accelerator.uuid or "")
    return None if part is None else _of_instance(part, accelerator, cards)


def _of_card(row: Mapping[str, Any] | None) -> Reading | None:
    if row is None:
        return None
    return Reading(
        memory_used_bytes=used_bytes(row.get("memory_used")),
        utilisation=ratio(row.get("busy")),
        temperature_c=temperature_c(row.get("temperature_c")),
        power_w=watts(row.get("power_mw")),
        clock_ratio=_clock_ratio(row),
        throttled=throttled(row.get("reasons")),
        faults=evidence(row),
    )


def _of_instance(
    part: Mapping[str, Any], accelerator: Accelerator, cards: Mapping[str, Mapping[str, Any]]
) -> Reading:
    """Heat, clock and faults are the card's; its watts are not: each instance would count them again."""
    card = cards.get(str(part.get("card")), {})
    instance = whole(accelerator.part.rpartition(":")[2].partition(".")[0])
    return Reading(
        memory_used_bytes=used_bytes(part.get("memory_used")),
        temperature_c=temperature_c(card.get("temperature_c")),
        clock_ratio=_clock_ratio(card),
        throttled=throttled(card.get("reasons")),
        faults=evidence(card, instance),
    )


def throttled(reasons: object) -> tuple[str, ...]:
    """Words of `Reading.throttled` for NVML's clock reasons.

    >>> throttled(0x1), throttled(0x48), throttled(0x4), throttled(None)
    ((), ('thermal', 'hardware'), ('power',), ())
    """
    bits = whole(reasons, most=2**64 - 1) or 0
    return tuple(word for word, mask in _REASONS if bits & mask)


def _clock_ratio(row: Mapping[str, Any]) -> float | None:
    now, most = (whole(row.get(key), most=10_000) for key in ("sm_mhz", "sm_mhz_highest"))
    return min(1.0, now / most) if now is not None and most else None


def _rows(told: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    rows = told.get(key)
    if not isinstance(rows, dict):
        return {}
    return {str(name): row for name, row in rows.items() if isinstance(row, dict)}
