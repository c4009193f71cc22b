"""Draws: what they depend on, what they follow, and what greedy costs."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from actors.engine import Sampling
from actors.sampling import NOT_FINITE, Chooser, next_ids, uniform

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((5, 3000)).astype(np.float32)


def chooser(ids: tuple[int, ...] = (), free: tuple[int, ...] = (), **sampling: float) -> Chooser:
    return Chooser(Sampling(**{"max_tokens": 9} | sampling), 3000, ids, free)


def drawn(logits: list[float], n: int, **sampling: float) -> Counter[int]:
    one = chooser(**sampling)
    values = np.array(logits, np.float32)
    return Counter(one.choose(values, position) for position in range(n))


def test_greedy_takes_the_most_likely_of_each_row() -> None:
    ids = next_ids(LOGITS, [chooser()] * 5, [0] * 5)
    assert ids == [int(row.argmax()) for row in LOGITS]


def test_the_numbers_of_a_seed_are_even_and_differ_by_seed_and_position() -> None:
    numbers = [uniform(seed, position) for seed in range(100) for position in range(100)]
    assert min(numbers) >= 0
    assert max(numbers) < 1
    assert len(set(numbers)) == 10_000
    assert abs(sum(numbers) / 10_000 - 0.5) < 0.02
    tenths = Counter(int(n * 10) for n in numbers)
    assert all(850 < tenths[n] < 1150 for n in range(10))
    assert uniform(2**64 - 1, 10**6) != uniform(-2, 10**6)


def test_a_draw_depends_on_seed_and_position_and_on_nothing_else() -> None:
    alone = [chooser(temperature=1.0, seed=n).choose(LOGITS[n], 40 + n) for n in range(5)]
    choosers = [chooser(temperature=1.0, seed=n) for n in range(5)]
    assert next_ids(LOGITS, choosers, [40 + n for n in range(5)]) == alone
    later = [chooser(temperature=1.0, seed=n).choose(LOGITS[n], 41 + n) for n in range(5)]
    assert alone != later


def test_draws_follow_the_probabilities() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    counts = drawn(logits, 20_000, temperature=1.0, seed=3)
    assert [round(counts[n] / 20_000, 2) for n in range(4)] == pytest.approx(
        [0.5, 0.3, 0.15, 0.05], abs=0.015
    )


def test_a_lower_temperature_sharpens() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert drawn(logits, 2000, temperature=0.01) == {0: 2000}
    warm, cool = (drawn(logits, 2000, temperature=t)[0] for t in (2.0, 0.5))
    assert warm < 1000 < cool


def test_a_nucleus_leaves_the_rest_out() -> None:
    logits = [math.log(p) for p in (0.05, 0.3, 0.5, 0.15)]
    assert set(drawn(logits, 3000, temperature=1.0, top_p=0.5)) == {2}
    assert set(drawn(logits, 3000, temperature=1.0, top_p=0.75)) == {1, 2}
    assert set(drawn(logits, 3000, temperature=1.0, top_p=1e-9)) == {2}
    assert set(drawn(logits, 3000, temperature=1.0, top_p=1.0)) == {0, 1, 2, 3}


def test_a_nucleus_may_be_most_of_the_vocabulary() -> None:
    flat = np.zeros(3000, np.float32)
    one = chooser(temperature=1.0, top_p=0.9)
    ids = {one.choose(flat, position) for position in range(5000)}
    assert len(ids) > 2000
    assert max(ids) < 2700  # ties are taken in order of ids


def test_penalties_count_what_was_said() -> None:
    logits = np.array([2.0, 1.9, 1.0, 0.0], np.float32)
    assert chooser((0, 0), frequency_penalty=0.5).choose(logits, 2) == 1
    assert chooser((0, 1), presence_penalty=1.5).choose(logits, 2) == 2
    assert chooser((1,), frequency_penalty=-0.5).choose(logits, 1) == 1
    one = chooser(frequency_penalty=0.5)
    assert one.choose(logits, 0) == 0
    one.seen(0)
    assert one.choose(logits, 1) == 1


def test_ids_that_end_a_text_are_not_penalised() -> None:
    logits = np.array([2.0, 1.9, 1.0], np.float32)
    assert chooser((0, 0, 0), free=(0,), frequency_penalty=2.0).choose(logits, 3) == 0


def test_a_resumed_text_is_penalised_as_the_whole_one() -> None:
    whole = chooser((5, 6), frequency_penalty=0.7, presence_penalty=0.2)
    ids: list[int] = []
    for position in range(2, 30):
        token = whole.choose(LOGITS[position % 5], position)
        whole.seen(token)
        ids.append(token)
    cut = chooser((5, 6, *ids[:11]), frequency_penalty=0.7, presence_penalty=0.2)
    for position in range(13, 30):
        token = cut.choose(LOGITS[position % 5], position)
        cut.seen(token)
        assert token == ids[position - 2]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_told_for_their_row_alone(
    wrong: float, temperature: float
) -> None:
    logits = LOGITS.copy()
    logits[2, 17] = wrong
    ids = next_ids(logits, [chooser(temperature=temperature)] * 5, [9] * 5)
    assert ids[2] == NOT_FINITE
    assert all(n >= 0 for k, n in enumerate(ids) if k != 2)


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = [0.0, -math.inf, 0.0]
    assert set(drawn(logits, 500, temperature=1.0)) == {0, 2}
