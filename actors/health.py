"""The health of a device over time: `observed(condition, sight, now)`. Pure.

Decides how long a device may be out of sight before it is lost, how long it must behave before work goes to it again,
and when a hot one counts as slower. Every transition has evidence; none of them flaps: what keeps coming and going has
to prove itself longer each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from placement.devices import Health

from .report import Reading

LOST_AFTER_S = 2.0
"""Out of sight for longer than this, a device is lost; a single look that misses it changes nothing."""

SILENT_AFTER_S = 30.0
"""While a probe itself is broken its devices stay as they were, at most this long."""

PROBATION_S = 10.0
PROBATION_MOST_S = 600.0
"""How long a device must be well after it was not: doubled by each relapse, up to the second figure."""

STEADY_S = 900.0
"""A device that was healthy for this long starts anew: its next probation is the shortest."""

SLOW_AFTER_S = 10.0
FAST_AFTER_S = 30.0
"""Throttled for the first time span a device counts as slower; after the second one without, as fast again."""

SLOWING = ("thermal", "hardware")
"""A power cap is how a busy device is meant to run; these are not."""

UNKNOWN_SPEED = 0.5
"""Of a throttled device that does not tell its clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one look said of a device.

    Attributes:
        health: `lost` when it is there but dead; None when it was not seen.
        silent: its probe could not look, so nothing is known of it.
    """

    health: Health | None = None
    evidence: tuple[str, ...] = ()
    reading: Reading | None = None
    temperature_limit_c: float | None = None
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What is held of a device. Times are seconds of one monotonic clock.

    Attributes:
        since: when `health` was entered.
        out_of_sight: since when it is not seen, or its probe is silent.
        relapses: times that it fell ill without having been steady in between.
        resets: times that it was lost and came back.
        speed: see `placement.devices.Device.speed`.
        slowing, quick: since when it is throttled, or is not; None = the other one holds.
    """

    health: Health
    since: float
    evidence: tuple[str, ...] = ()
    out_of_sight: float | None = None
    relapses: int = 0
    resets: int = 0
    speed: float = 1.0
    slowing: float | None = None
    quick: float | None = None


def observed(before: Condition | None, sight: Sight, now: float) -> Condition:
    """The condition after a look.

    >>> well = observed(None, Sight(health=Health.HEALTHY), 0.0)
    >>> missed = observed(well, Sight(), 1.0)
    >>> missed.health, observed(missed, Sight(), 4.0).health
    (<Health.HEALTHY: 'healthy'>, <Health.LOST: 'lost'>)
    """
    if sight.health is None:
        return _unseen(before, sight, now)
    word, evidence = _judged(sight)
    if before is None:
        return _throttled(Condition(health=word, since=now, evidence=evidence), sight, now)
    seen = replace(before, out_of_sight=None)
    return _throttled(_next(seen, word, evidence, now), sight, now)


def probation_s(condition: Condition) -> float:
    """How long a recovered device must be well."""
    return min(PROBATION_S * 2 ** max(0, condition.relapses - 1), PROBATION_MOST_S)


def _judged(sight: Sight) -> tuple[Health, tuple[str, ...]]:
    """What a look says by itself: the vendor's word, or worse when the readings are."""
    assert sight.health is not None
    faults = tuple(dict.fromkeys((*sight.evidence, *_faults(sight))))
    if sight.health is Health.HEALTHY and faults:
        return Health.DEGRADED, faults
    if sight.health is not Health.HEALTHY and not faults:
        faults = (f"its vendor's interface says {sight.health}",)
    return sight.health, faults


def _faults(sight: Sight) -> Iterator[str]:
    reading, limit = sight.reading, sight.temperature_limit_c
    if reading is None:
        return
    yield from reading.faults
    if limit is not None and reading.temperature_c is not None and reading.temperature_c >= limit:
        yield f"hotter than its limit of {limit:g} C"


def _unseen(before: Condition | None, sight: Sight, now: float) -> Condition:
    if before is None:
        return Condition(health=Health.LOST, since=now, evidence=("was never seen",))
    first = now if before.out_of_sight is None else before.out_of_sight
    gone = replace(before, out_of_sight=first)
    if before.health is Health.LOST or now - first < (
        SILENT_AFTER_S if sight.silent else LOST_AFTER_S
    ):
        return gone
    if sight.silent:
        word = Health.DEGRADED
        evidence = sight.evidence or ("its probe does not answer",)
        return gone if before.health is word else _fell(gone, word, evidence, now)
    return _fell(gone, Health.LOST, ("is not there any more",), now)


def _next(before: Condition, word: Health, evidence: tuple[str, ...], now: float) -> Condition:
    if word is not Health.HEALTHY:
        same = before.health is word
        return replace(before, evidence=evidence) if same else _fell(before, word, evidence, now)
    match before.health:
        case Health.HEALTHY:
            steady = before.relapses and now - before.since >= STEADY_S
            return replace(before, relapses=0) if steady else before
        case Health.RECOVERED:
            if now - before.since < probation_s(before):
                return before
            return replace(before, health=Health.HEALTHY, since=now, evidence=())
        case Health.LOST | Health.DEGRADED:
            resets = before.resets + (before.health is Health.LOST)
            was = before.evidence[0] if before.evidence else str(before.health)
            said = (f"well again, on probation; before: {was}",)
            return replace(before, health=Health.RECOVERED, since=now, evidence=said, resets=resets)


def _fell(before: Condition, word: Health, evidence: tuple[str, ...], now: float) -> Condition:
    was_well = before.health in (Health.HEALTHY, Health.RECOVERED)
    relapses = before.relapses + was_well
    return replace(before, health=word, since=now, evidence=evidence, relapses=relapses)


def _throttled(condition: Condition, sight: Sight, now: float) -> Condition:
    reading = sight.reading
    if reading is None:
        return condition
    if not set(reading.throttled) & set(SLOWING):
        quick = now if condition.quick is None else condition.quick
        speed = 1.0 if now - quick >= FAST_AFTER_S else condition.speed
        return replace(condition, slowing=None, quick=quick, speed=speed)
    slowing = now if condition.slowing is None else condition.slowing
    speed = condition.speed
    if now - slowing >= SLOW_AFTER_S:
        # The lowest that was seen counts, so that a clock that swings does not make plans swing.
        speed = min(speed, quarters(reading.clock_ratio))
    return replace(condition, slowing=slowing, quick=None, speed=speed)


def quarters(clock_ratio: float | None) -> float:
    """A throttled device's speed, in quarters: coarse, because each change is a new inventory.

    >>> quarters(0.9), quarters(0.4), quarters(0.0), quarters(None)
    (0.75, 0.25, 0.25, 0.5)
    """
    if clock_ratio is None:
        return UNKNOWN_SPEED
    return min(0.75, max(0.25, int(clock_ratio * 4) / 4))
