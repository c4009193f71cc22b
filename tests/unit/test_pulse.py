"""An engine has stalled when it has work and nothing came of it for too long, by the cost model and a margin."""

from __future__ import annotations

from actors.engine import Pace
from actors.pulse import FACTOR, LEAST_S, Pulse

PACE = Pace(fixed_s=0.1, per_sequence_s=0.0, prefill_tokens_per_s=100.0, load_s=0.0)


def test_an_idle_engine_never_stalls() -> None:
    assert Pulse(PACE).stalled_s(1e6) == 0
    pulse = Pulse(PACE)
    pulse.begins("a", 10, 0.0)
    pulse.ends("a", 1.0)
    assert pulse.stalled_s(1e6) == 0


def test_work_after_a_rest_is_not_blamed_for_the_rest() -> None:
    pulse = Pulse(PACE)
    pulse.begins("a", 10, 0.0)
    pulse.ends("a", 1.0)
    pulse.begins("b", 10, 1000.0)
    assert pulse.stalled_s(1001.0) == 0


def test_a_long_prompt_may_take_its_time() -> None:
    pulse = Pulse(PACE)
    pulse.begins("a", 5000, 0.0)
    limit = LEAST_S + FACTOR * (50 + 0.1)
    assert pulse.stalled_s(limit - 1) == 0
    assert pulse.stalled_s(limit + 1) == limit + 1


def test_a_prompt_that_was_read_counts_no_more() -> None:
    pulse = Pulse(PACE)
    pulse.begins("a", 5000, 0.0)
    pulse.moves("a", 10.0)
    assert pulse.stalled_s(10.0 + LEAST_S + FACTOR * 0.1 + 1) > 0


def test_one_sequence_that_moves_speaks_for_all() -> None:
    pulse = Pulse(PACE)
    for key in ("a", "b"):
        pulse.begins(key, 1, 0.0)
    for second in range(100):
        pulse.moves("a", float(second))
    assert pulse.stalled_s(100.0) == 0
