"""What Rebellions' tool and daemon say of one device, in one shape, and what their states mean.

Decides which states speak against a device. It must not know who said it, nor how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..quantities import power_w
from ..report import Reading

READY = 0
STATES = {1: "is being reset", 2: "initialises", 3: "is faulty", 4: "is being removed"}
"""Driver's states, as up to driver 3; a later one shifts them by one, so only `READY` decides anything."""

_THROTTLED = {10: ("thermal",)}
_HUNG = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One device. Every field may be unknown.

    Attributes:
        name: the kernel's, e.g. `rbln2`; counted anew at each boot.
        board: serial number of the card; dies of one card share it.
        group: RSD group that it is a member of; empty = none, or not told.
        evidence: why it is not healthy.
        reading: what it does now, where that came in the same answer; power is the whole card's.
    """

    name: str
    product: str | None = None
    device_id: str | None = None
    uuid: str | None = None
    board: str | None = None
    pci: str | None = None
    numa_node: int | None = None
    driver: str | None = None
    firmware: str | None = None
    memory_bytes: int | None = None
    group: str = ""
    lanes: str = ""
    evidence: tuple[str, ...] = ()
    reading: Reading = field(default_factory=Reading)


def unique(rows: Sequence[Told]) -> dict[str, Told]:
    """By name; of a name that is told twice only the first row counts."""
    found: dict[str, Told] = {}
    for row in rows:
        found.setdefault(row.name, row)
    return found


def by_state(state: int | None, who: str) -> tuple[str, ...]:
    """Evidence of a driver's state.

    >>> by_state(0, "the driver"), by_state(3, "the driver")
    ((), ('the driver: state 3 (is faulty)',))
    """
    if state is None or state == READY:
        return ()
    return (f"{who}: state {state} ({STATES.get(state, 'unknown')})",)


def in_performance_state(reading: Reading, state: int | None) -> Reading:
    """The reading with what a performance state means: P10 is thermal throttling, P12 a device that hangs."""
    if state == _HUNG:
        fault = "performance state P12: the device hangs and was stopped"
        return replace(reading, faults=(*reading.faults, fault))
    return replace(reading, throttled=_THROTTLED.get(state or 0, ()))


def per_die(readings: Mapping[str, Reading], dies: Mapping[str, int]) -> dict[str, Reading]:
    """Each reading with its die's part of the card's power, which every die of a card repeats.

    Args:
        readings: by identity.
        dies: identity -> dies of its card that this machine has; 0 = unknown, and so is the power then.
    """
    return {
        key: replace(r, power_w=_part(r.power_w, dies.get(key, 0))) for key, r in readings.items()
    }


def _part(card_w: float | None, dies: int) -> float | None:
    return power_w(card_w / dies) if card_w is not None and dies else None
