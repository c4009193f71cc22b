"""The copies of one model chosen all together."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from placement.mixes import best_mix
from placement.relaxation import Relaxed


def _relaxed(values, usage, limits, most: float, others: int = 0) -> Relaxed:
    """One model after `others` candidates of another one."""
    unit = np.array(limits, float)
    usage = np.vstack([np.ones((others, len(limits))), np.array(usage, float)]) / unit
    return Relaxed(
        values=np.append(np.ones(others), values),
        usage=usage,
        unit=unit,
        limits=np.ones(len(limits)),
        rows=np.arange(len(limits)),
        starts=np.array([0, others] if others else [0]),
        least=np.zeros(2 if others else 1),
        most=np.full(2 if others else 1, most),
    )


def _best(relaxed: Relaxed, room, most: int) -> float:
    counts = product(range(most + 1), repeat=len(relaxed.values))
    fitting = (c for c in counts if sum(c) <= most and (c @ relaxed.usage <= room + 1e-9).all())
    return max(float(c @ relaxed.values) for c in fitting)


@pytest.mark.parametrize("seed", range(12))
def test_a_small_mix_is_the_best_there_is(seed: int) -> None:
    draw = np.random.default_rng(seed)
    usage = draw.integers(0, 4, (4, 2)) + np.array([[1, 0]])
    relaxed = _relaxed(draw.uniform(1, 2, 4), usage, (11, 9), most=5.0)
    room = np.ones(2)
    found = best_mix(relaxed, np.full(2, 8.0), draw.uniform(0, 1, 4), 0, room)
    assert len(found) <= 5
    assert (relaxed.usage[list(found)].sum(axis=0) <= room + 1e-9).all()
    assert relaxed.values[list(found)].sum() == pytest.approx(_best(relaxed, room, 5))


def test_only_the_models_own_candidates_and_the_room_that_is_left_are_used() -> None:
    relaxed = _relaxed([1.0, 1.5], [[1, 0], [0, 2]], (10, 10), most=20.0, others=3)
    found = best_mix(relaxed, np.ones(2) * 20, np.ones(5) / 5, 1, np.array([0.3, 0.5]))
    assert sorted(found) == [3, 3, 3, 4, 4]


def test_many_copies_fill_what_there_is() -> None:
    relaxed = _relaxed([1.0, 1.01], [[3, 0], [2, 1]], (120, 30), most=200.0)
    found = best_mix(relaxed, np.array([40.0, 0.5]), np.array([0.4, 0.6]), 0, np.ones(2))
    assert len(found) == 50
    assert found.count(1) == 30


def test_where_nothing_fits_there_is_no_mix() -> None:
    relaxed = _relaxed([1.0], [[3]], (2,), most=4.0)
    assert best_mix(relaxed, np.ones(1), np.ones(1), 0, np.ones(1)) == ()
