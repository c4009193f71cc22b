"""The bound: equal to the linear relaxation solved by hand, never beaten, taken at the prices that are shown."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from support.tables import relaxed, two_models, values_of

from placement.bounds import Path, dual, relax, shorten


@pytest.mark.parametrize(
    ("limit", "best", "price"),
    [
        (2.5, 6.5, 3.0),  # both small: 5; half of b's step (+3 for 1)
        (3.5, 8.5, 1.0),  # b large; half of a's step (+1 for 1)
        (9.0, 9.0, 0.0),  # room for all
    ],
)
def test_the_bound_is_that_of_the_linear_program(limit: float, best: float, price: float) -> None:
    table, asked = two_models(limit)
    found = dual(table, asked, values_of(table))
    assert found.bound >= best - 1e-9
    assert found.bound == pytest.approx(best, rel=1e-3)
    assert found.prices[0] == pytest.approx(price, abs=0.05)
    assert not found.impossible


def test_the_weights_are_the_fractional_plan() -> None:
    table, asked = two_models(2.5)
    weights = dual(table, asked, values_of(table)).weights
    assert weights == pytest.approx([0.0, 1.0, 0.5, 0.5], abs=0.02)


def test_what_cannot_run_together_is_known_from_the_prices() -> None:
    table, asked = two_models(1.5)
    assert dual(table, asked, values_of(table)).impossible


def test_a_copy_that_need_not_run_makes_nothing_impossible() -> None:
    table, asked = two_models(1.5)
    relaxation = relax(table, asked, values_of(table))
    relaxation.least[:] = 0.0
    path = Path(relaxation, None)
    path.follow()
    assert not path.impossible


def test_the_bound_is_taken_at_the_prices_that_are_shown() -> None:
    table, asked = two_models(2.5)
    found = dual(table, asked, values_of(table))
    relaxation = relax(table, asked, values_of(table))
    assert all(shorten(price) == price for price in found.prices)
    shown = np.array(found.prices) * relaxation.unit
    assert relaxation.bound_at(shown) == found.bound
    assert found.reduced == tuple(relaxation.reduced(shown).tolist())


def test_no_prices_are_beaten_by_a_plan() -> None:
    table, asked = two_models(3.0)
    relaxation = relax(table, asked, values_of(table))
    best = max(
        relaxation.values[a] + relaxation.values[b]
        for a, b in product((0, 1), (2, 3))
        if (relaxation.usage[a] + relaxation.usage[b] <= relaxation.limits).all()
    )
    assert best == 8.0
    for price in (0.0, 0.3, 1.0, 3.0, 50.0):
        assert relaxation.bound_at(np.array([price]) * relaxation.unit) >= best


def test_known_prices_lead_to_the_same_bound() -> None:
    table, asked = two_models(2.5)
    values = values_of(table)
    cold = dual(table, asked, values)
    for start in (3.0, 0.0, 40.0):
        warm = dual(table, asked, values, {"devices:x": start, "devices:gone": 7.0})
        assert warm.bound == pytest.approx(cold.bound, rel=1e-3)


def test_a_minimum_is_a_limit_with_both_signs_turned() -> None:
    """One copy is worth 5 or 3; only the poor one reaches the minimum of 2 that both together must reach."""
    problem = relaxed([[5.0, 3.0]], [[-1.0], [-2.0]], [-2.0], [(1, 1)])
    path = Path(problem, None)
    path.follow()
    assert problem.bound_at(path.purged()) == pytest.approx(3.0, rel=1e-2)


def test_without_candidates_the_bound_is_nothing() -> None:
    table, _ = two_models(2.5)
    empty = type(table)(candidates=(), of_model={}, rows=(), usage=(), rejections=())
    assert dual(empty, (), ()).bound == 0.0
