"""All better plans of tiny tables, as found by trying every one; and no claim to have found all where some were left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from support.tables import relaxed

from placement.bounds import Path, Relaxed
from placement.labels import Better, better_plans

PLENTY = 10**7


def instance(seed: int) -> Relaxed:
    """Three models of two or three candidates over two rows that bind."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 4, size=3)
    values = [np.round(rng.uniform(1.0, 3.0, n), 3).tolist() for n in counts]
    usage = np.round(rng.uniform(0.2, 2.0, (int(counts.sum()), 2)), 3).tolist()
    low = rng.integers(0, 2, size=3)
    copies = [(int(n), int(n + rng.integers(0, 2)) or 1) for n in low]
    return relaxed(values, usage, np.round(rng.uniform(2.0, 5.0, 2), 3).tolist(), copies)


def every_plan(problem: Relaxed) -> Iterator[tuple[tuple[int, ...], float]]:
    """Each choice within all rows, candidates in order, with its worth."""
    ways = []
    for m, (start, count) in enumerate(zip(problem.starts, problem.counts, strict=True)):
        own = range(int(start), int(start + count))
        copies = range(int(problem.least[m]), int(problem.most[m]) + 1)
        ways.append([way for n in copies for way in combinations_with_replacement(own, n)])
    for choice in product(*ways):
        plan = tuple(k for way in choice for k in way)
        if (problem.usage[list(plan)].sum(axis=0) <= problem.limits + 1e-9).all():
            yield plan, float(problem.values[list(plan)].sum())


def prices_of(problem: Relaxed) -> np.ndarray:
    path = Path(problem, None)
    path.follow()
    return path.purged()


def anything(_: Sequence[int]) -> bool:
    return True


def never() -> bool:
    return False


def better(
    problem: Relaxed,
    prices: np.ndarray,
    value: float,
    admits: Callable[[Sequence[int]], bool] = anything,
    extensions: int = PLENTY,
    should_stop: Callable[[], bool] = never,
) -> Better:
    return better_plans(
        problem, prices, value, admits=admits, extensions=extensions, should_stop=should_stop
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("priced", [True, False])
def test_the_better_plans_are_all_there_are(seed: int, priced: bool) -> None:
    problem = instance(seed)
    plans = dict(every_plan(problem))
    floor = float(np.quantile(list(plans.values()), 0.7)) if plans else 0.0
    expected = {plan: value for plan, value in plans.items() if value > floor + 1e-6}
    prices = prices_of(problem) if priced else np.zeros(2)
    found = better(problem, prices, floor)
    assert found.complete
    got = {
        tuple(sorted(plan)): value
        for plan, value in zip(found.plans, found.values, strict=True)
        if value > floor + 1e-6
    }
    assert got.keys() == expected.keys()
    for plan, value in got.items():
        assert value == pytest.approx(expected[plan])
    assert list(found.values) == sorted(found.values, reverse=True)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_better_than_the_best(seed: int) -> None:
    problem = instance(seed)
    best = max((value for _, value in every_plan(problem)), default=0.0)
    found = better(problem, prices_of(problem), best)
    assert found.complete
    assert all(value <= best + 1e-6 for value in found.values)


def test_what_one_model_may_not_choose_is_in_no_plan() -> None:
    problem = instance(3)
    banned = int(problem.starts[1])
    found = better(problem, prices_of(problem), 0.0, lambda chosen: banned not in chosen)
    expected = {plan for plan, value in every_plan(problem) if banned not in plan and value > 1e-6}
    assert found.complete
    assert {tuple(sorted(plan)) for plan in found.plans} == expected


def test_a_minimum_is_met_by_every_plan() -> None:
    problem = relaxed(
        [[3.0, 1.0], [2.0, 1.5]],
        [[1.0, -1.0], [1.0, -4.0], [1.0, 0.0], [0.5, 0.0]],
        [3.0, -4.0],
        [(1, 2), (0, 1)],
    )
    expected = {plan for plan, value in every_plan(problem) if value > 1e-6}
    found = better(problem, np.zeros(2), 0.0)
    assert found.complete
    assert {tuple(sorted(plan)) for plan in found.plans} == expected


def test_what_is_cut_short_claims_nothing() -> None:
    assert better(instance(0), np.zeros(2), 0.0).complete
    assert not better(instance(0), np.zeros(2), 0.0, extensions=1).complete
    assert not better(instance(0), np.zeros(2), 0.0, should_stop=lambda: True).complete
