"""The health of a device over time: what is lost, what is well again, and that nothing flaps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.health import (
    FAST_AFTER_S,
    LOST_AFTER_S,
    PROBATION_MOST_S,
    PROBATION_S,
    SILENT_AFTER_S,
    SLOW_AFTER_S,
    STEADY_S,
    Condition,
    Sight,
    observed,
    probation_s,
)
from actors.report import Reading
from placement.devices import Health

WELL = Sight(health=Health.HEALTHY)
COOL = Sight(health=Health.HEALTHY, reading=Reading(clock_ratio=1.0))
GONE = Sight()


def over(*sights: tuple[float, Sight], start: Condition | None = None) -> Condition:
    condition = start
    for at, sight in sights:
        condition = observed(condition, sight, at)
    assert condition is not None
    return condition


def hot(ratio: float | None = 0.5, *reasons: str) -> Sight:
    reading = Reading(clock_ratio=ratio, throttled=reasons or ("thermal",))
    return Sight(health=Health.HEALTHY, reading=reading)


def test_one_look_that_misses_a_device_changes_nothing():
    assert over((0, WELL), (1, GONE), (2, WELL)) == over((0, WELL))


def test_a_device_out_of_sight_is_lost_and_proves_itself_when_it_is_back():
    lost = over((0, WELL), (1, GONE), (1 + LOST_AFTER_S, GONE))
    assert lost.health is Health.LOST
    assert lost.evidence == ("is not there any more",)
    back = over((10, WELL), start=lost)
    assert back.health is Health.RECOVERED
    assert back.resets == 1
    assert "is not there any more" in back.evidence[0]
    assert over((10 + PROBATION_S / 2, WELL), start=back).health is Health.RECOVERED
    well = over((10 + PROBATION_S, WELL), start=back)
    assert (well.health, well.evidence) == (Health.HEALTHY, ())


def test_what_the_vendor_calls_lost_is_lost_at_once():
    dead = Sight(health=Health.LOST, evidence=("fallen off the bus",))
    condition = over((0, WELL), (1, dead))
    assert (condition.health, condition.evidence) == (Health.LOST, ("fallen off the bus",))


def test_each_relapse_makes_the_next_probation_longer_up_to_a_bound():
    condition = over((0, WELL))
    at, lengths = 0.0, []
    for _ in range(10):
        condition = over((at, GONE), (at + LOST_AFTER_S, GONE), (at + 3, WELL), start=condition)
        lengths.append(probation_s(condition))
        at += 5
    assert lengths[0] == PROBATION_S
    assert lengths == sorted(lengths)
    assert lengths[-1] == PROBATION_MOST_S


def test_a_device_that_was_steady_starts_anew():
    lost = over((0, WELL), (1, GONE), (1 + LOST_AFTER_S, GONE))
    well = over((10, WELL), (10 + PROBATION_S, WELL), start=lost)
    assert well.relapses == 1
    assert over((10 + PROBATION_S + STEADY_S, WELL), start=well).relapses == 0


def test_a_broken_probe_leaves_its_devices_alone_for_a_while():
    silent = Sight(silent=True, evidence=("its probe does not answer: tool hangs",))
    soon = over((0, WELL), (1, silent), (1 + SILENT_AFTER_S / 2, silent))
    assert soon.health is Health.HEALTHY
    later = over((1 + SILENT_AFTER_S, silent), start=soon)
    assert later.health is Health.DEGRADED
    assert "tool hangs" in later.evidence[0]


def test_faults_and_heat_degrade_a_device():
    fault = Sight(health=Health.HEALTHY, reading=Reading(faults=("Xid 48: double bit error",)))
    assert over((0, WELL), (1, fault)).health is Health.DEGRADED
    heat = Sight(
        health=Health.HEALTHY, reading=Reading(temperature_c=95.0), temperature_limit_c=90.0
    )
    condition = over((0, WELL), (1, heat))
    assert (condition.health, condition.evidence) == (
        Health.DEGRADED,
        ("hotter than its limit of 90 C",),
    )


@pytest.mark.parametrize(
    ("ratio", "speed"), [(0.9, 0.75), (0.6, 0.5), (0.3, 0.25), (0.0, 0.25), (None, 0.5)]
)
def test_a_throttled_device_is_slower_after_a_while_and_fast_again_later(ratio, speed):
    assert over((0, WELL), (1, hot(ratio))).speed == 1.0
    slow = over((0, WELL), (1, hot(ratio)), (1 + SLOW_AFTER_S, hot(ratio)))
    assert (slow.speed, slow.health) == (speed, Health.HEALTHY)
    soon = over((20, COOL), (20 + FAST_AFTER_S / 2, COOL), start=slow)
    assert soon.speed == speed
    assert over((20 + FAST_AFTER_S, COOL), start=soon).speed == 1.0


def test_a_power_cap_slows_nothing():
    capped = hot(0.5, "power")
    assert over((0, capped), (SLOW_AFTER_S + 1, capped)).speed == 1.0


def test_a_clock_that_swings_does_not_make_the_speed_swing():
    swings = [(float(t), hot(0.3 if t % 2 else 0.9)) for t in range(60)]
    condition, speeds = over((0, WELL)), []
    for at, sight in swings:
        condition = observed(condition, sight, at)
        speeds.append(condition.speed)
    assert sum(a != b for a, b in pairwise(speeds)) <= 2


SIGHTS = st.sampled_from(
    [
        WELL,
        GONE,
        Sight(health=Health.DEGRADED, evidence=("e",)),
        Sight(health=Health.LOST),
        Sight(silent=True),
        hot(),
    ]
)


@given(st.lists(st.tuples(st.floats(0.1, 30.0), SIGHTS), max_size=60))
def test_work_comes_back_only_after_probation_and_evidence_always_says_why(steps):
    condition, at, ill_until = observed(None, WELL, 0.0), 0.0, None
    for step, sight in steps:
        before, at = condition, at + step
        condition = observed(condition, sight, at)
        if condition.health in (Health.DEGRADED, Health.LOST):
            ill_until = at
            assert condition.evidence
        if before.health is not Health.HEALTHY and condition.health is Health.HEALTHY:
            assert ill_until is not None
            assert before.health is Health.RECOVERED
            assert at - before.since >= PROBATION_S


@given(st.integers(2, 200))
def test_a_device_that_comes_and_goes_changes_what_is_planned_a_bounded_number_of_times(turns):
    condition, usable, changes = observed(None, WELL, 0.0), True, 0
    for turn in range(turns):
        for at, sight in ((turn * 8.0, GONE), (turn * 8.0 + 3, GONE), (turn * 8.0 + 4, WELL)):
            condition = observed(condition, sight, at)
            now = condition.health is Health.HEALTHY
            changes, usable = changes + (now != usable), now
    assert changes == 1
