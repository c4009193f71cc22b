"""An engine has stalled when it has work and nothing came of it for too long, by the cost model and a margin."""

from __future__ import annotations

from actors.engine import Pace
from actors.pulse import ELSEWHERE_LEAST_S, FACTOR, LEAST_S, Pulse

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


def test_an_engine_that_hangs_is_found_although_every_client_gives_up_before() -> None:
    pulse = Pulse(PACE)
    for second in range(0, 2 * int(LEAST_S), 5):
        pulse.begins(second, 1, float(second))
        pulse.ends(second, second + 4.9)
    pulse.begins("last", 1, 1000.0)
    assert pulse.stalled_s(1001.0) > LEAST_S


def test_prompts_that_were_given_up_may_still_be_read() -> None:
    pulse = Pulse(PACE)
    for second in range(100):
        pulse.begins(second, 100, float(second))
        pulse.ends(second, second + 1.0)
    pulse.begins("last", 100, 100.0)
    assert pulse.stalled_s(101.0) == 0


def test_what_comes_makes_up_for_what_was_given_up() -> None:
    pulse = Pulse(PACE)
    pulse.begins("a", 1, 0.0)
    pulse.ends("a", LEAST_S - 1)
    pulse.begins("b", 1, 20.0)
    pulse.moves("b", 21.0)
    assert pulse.stalled_s(21.0 + LEAST_S) == 0


def test_an_endpoint_may_queue_a_request() -> None:
    pulse = Pulse(PACE, least_s=ELSEWHERE_LEAST_S)
    pulse.begins("a", 1, 0.0)
    assert pulse.stalled_s(120.0) == 0
    assert pulse.stalled_s(ELSEWHERE_LEAST_S + 2) > 0
