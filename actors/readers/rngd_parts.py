"""An RNGD card as devices of some of its processing elements (PEs): which there are, and the class of one.

Decides what a part of a card can do. It must not know how a card is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from placement.devices import DeviceClass

from ..probe import Broken
from ..quantities import text_of, whole
from .rngd import PES, Live

PES_ENV = "SHARDYARD_FURIOSA_PES"
"""How many fused PEs make a device: 1, 2, 4 or 8; unset = 8, the whole card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """PEs that are given out together, `first` to `last`."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many they are."""
        return self.last - self.first + 1

    @property
    def is_whole(self) -> bool:
        """Whether they are all that a card has."""
        return self.size == PES

    @property
    def pes(self) -> str:
        """As launch flags name them, e.g. `0-3`."""
        return str(self.first) if self.size == 1 else f"{self.first}-{self.last}"

    @property
    def name(self) -> str:
        """See `Accelerator.part`."""
        return "" if self.is_whole else f"pe:{self.pes}"


def parts(size: int) -> tuple[Part, ...]:
    """The parts of a card that is given out by so many PEs."""
    return tuple(Part(first=k, last=k + size - 1) for k in range(0, PES, size))


def part_named(name: str) -> Part:
    """Inverse of `Part.name`.

    >>> part_named("pe:4-7").pes, part_named("pe:5").size, part_named("").is_whole
    ('4-7', 1, True)
    """
    first, _, last = name.removeprefix("pe:").partition("-")
    return Part(first=int(first), last=int(last or first)) if name else Part(first=0, last=PES - 1)


def wanted_size(text: str | None) -> tuple[int, tuple[Broken, ...]]:
    """How many PEs make a device; for a word that makes no sense, whole cards and a complaint."""
    said = text_of(text)
    size = PES if said is None else whole(said)
    if size in (1, 2, 4, PES):
        return size, ()
    reason = f"{PES_ENV} is {said!r}; PEs are fused by 1, 2, 4 or 8, so cards are offered whole"
    return PES, (Broken(reason=reason, hint=f"export {PES_ENV}=4"),)


def scaled(card: DeviceClass, part: Part) -> DeviceClass:
    """The class of a part: its share of everything that the card has."""
    if part.is_whole:
        return card
    share = part.size / PES
    return replace(
        card,
        name=f"{card.name}_{part.size}PE",
        memory_bytes=int(card.memory_bytes * share),
        bandwidth_bytes_per_s=card.bandwidth_bytes_per_s * share,
        flops=tuple((dtype, rate * share) for dtype, rate in card.flops),
        power_w=card.power_w * share,
        idle_w=card.idle_w * share,
        price_per_hour=card.price_per_hour * share,
        source=f"{part.size} of {PES} PEs of {card.name}",
    )


def used_bytes(part: Part, now: Live) -> int | None:
    """Bytes of the allocations that begin in a part."""
    if now.held is None:
        return None
    mine = [used for first, used in now.used_bytes.items() if part.first <= first <= part.last]
    known = [used for used in mine if used is not None]
    return sum(known) if len(known) == len(mine) else None


def utilisation(part: Part, now: Live, before: Mapping[int, tuple[int, int]]) -> float | None:
    """Mean over a part's PEs since `before`, by PE; one that no process holds does nothing."""
    if now.held is None:
        return None
    held = set(range(part.first, part.last + 1)) & now.held
    shares = [_busy(before.get(pe), now.cycles.get(pe)) for pe in held]
    known = [share for share in shares if share is not None]
    return sum(known) / part.size if len(known) == len(held) else None


def _busy(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """Part of the cycles in which a task ran; None when they went backwards or did not pass."""
    if before is None or after is None:
        return None
    passed, ran = after[0] - before[0], after[1] - before[1]
    return ran / passed if passed > 0 and 0 <= ran <= passed else None
