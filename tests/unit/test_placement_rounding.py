"""From fractions to whole copies: rows are mended at the least loss, improved within their limits, and homes are kept."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from support.tables import relaxed

from placement.bounds import Relaxed
from placement.rounding import Copies, Rounding


def shared(limit: float, copies: tuple[tuple[int, int], ...] = ((1, 1), (1, 1))) -> Relaxed:
    """Amounts 2 and 1 of one row; values 4 and 3 for the first model, 5 and 2 for the second."""
    return relaxed([[4.0, 3.0], [5.0, 2.0]], [[2.0], [1.0], [2.0], [1.0]], [limit], copies)


def rounding(
    problem: Relaxed,
    *,
    home: dict[int, int] | None = None,
    stay: float = 0.0,
    forbidden: tuple[int, ...] = (),
) -> Rounding:
    model = np.repeat(np.arange(len(problem.most)), problem.most.astype(int))
    homes = np.array([(home or {}).get(k, -1) for k in range(len(model))], np.intp)
    stays = np.where(homes >= 0, stay, 0.0)
    allowed = np.ones(len(problem.values), np.bool_)
    allowed[list(forbidden)] = False
    prices = np.zeros(len(problem.limits))
    return Rounding(problem, prices, Copies(model=model, home=homes, stay=stays), allowed)


def test_copies_are_given_out_by_largest_remainder() -> None:
    problem = relaxed([[4.0, 3.0]], [[1.0], [2.0]], [9.0], [(3, 3)])
    found = rounding(problem)
    found.round(np.array([0.6, 0.4]))
    assert Counter(found.chosen.tolist()) == {0: 2, 1: 1}


def test_what_need_not_run_is_left_to_the_improvement() -> None:
    found = rounding(shared(9.0, ((0, 2), (1, 1))))
    found.round(np.array([1.0, 0.0, 1.0, 0.0]))
    assert found.chosen.tolist() == [found.nothing, found.nothing, 2]
    found.improve()
    assert found.chosen.tolist() == [0, 0, 2]


def test_a_forbidden_candidate_is_never_given_out() -> None:
    found = rounding(shared(9.0), forbidden=(0,))
    found.round(np.array([1.0, 0.0, 1.0, 0.0]))
    found.improve()
    assert found.chosen.tolist() == [1, 2]


def test_a_row_is_mended_where_it_costs_least() -> None:
    found = rounding(shared(3.0))
    found.start(np.array([0, 2]))
    assert not found.holds
    assert found.repair()
    assert found.holds
    assert found.chosen.tolist() == [1, 2]


def test_a_copy_that_need_not_run_makes_room() -> None:
    found = rounding(shared(2.0, ((0, 1), (1, 1))))
    found.start(np.array([1, 2]))
    assert found.repair()
    assert found.chosen[1] != found.nothing


def test_what_cannot_be_mended_is_said() -> None:
    found = rounding(shared(1.5))
    found.start(np.array([0, 2]))
    assert not found.repair()
    assert not found.holds


def test_two_moves_that_gain_only_together_are_found() -> None:
    found = rounding(shared(3.0))
    found.start(np.array([0, 3]))
    assert found.value == 6.0
    found.improve()
    assert found.chosen.tolist() == [1, 2]
    assert found.value == 8.0


@pytest.mark.parametrize("limit", [2.0, 3.0, 4.0, 5.0])
def test_an_improvement_stays_within_rows_and_never_loses(limit: float) -> None:
    found = rounding(shared(limit, ((1, 2), (0, 2))))
    found.start(np.array([1, found.nothing, found.nothing, found.nothing]))
    before = found.value
    found.improve()
    assert found.holds
    assert found.value >= before
    assert (found.chosen[:2] != found.nothing).sum() >= 1


@pytest.mark.parametrize(("stay", "chosen"), [(1.1, 1), (0.9, 0)])
def test_a_copy_leaves_home_only_for_more_than_the_move_costs(stay: float, chosen: int) -> None:
    found = rounding(shared(9.0), home={0: 1}, stay=stay)
    found.round(np.array([1.0, 0.0, 1.0, 0.0]))
    assert found.chosen[0] == 1, "rounding leaves what runs at home"
    found.improve()
    assert found.chosen[0] == chosen


def test_staying_counts_towards_the_worth_of_choices() -> None:
    found = rounding(shared(9.0), home={0: 1}, stay=0.5)
    found.start(np.array([1, 2]))
    assert found.value == 3.0 + 5.0 + 0.5
    found.start(np.array([0, 2]))
    assert found.value == 4.0 + 5.0


def test_repair_moves_the_copy_that_has_no_home() -> None:
    problem = relaxed([[4.0, 3.9]], [[2.0], [1.0]], [3.0], [(2, 2)])
    found = rounding(problem, home={0: 0}, stay=0.5)
    found.start(np.array([0, 0]))
    assert found.repair()
    assert found.chosen.tolist() == [0, 1]


def test_the_load_follows_every_move() -> None:
    found = rounding(shared(3.0))
    found.start(np.array([0, 2]))
    found.repair()
    again = rounding(shared(3.0))
    again.start(found.chosen)
    assert again.holds == found.holds
    assert again.value == found.value
