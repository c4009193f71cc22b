"""The solver against exact solvers on formulations of their own. They come with the extra `exact`; without it these skip."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, given, settings
from support.oracles import asking, by_class, by_node
from support.problems import plain, problems

from benchmarks.instances import make
from placement import Infeasible, Plan, Problem, solve, verify

RELATIVE = 2e-6
"""Integers of CP-SAT and tolerances of HiGHS."""

highs = pytest.mark.skipif(
    find_spec("highspy") is None, reason="highspy is not installed: pip install 'shardyard[exact]'"
)
cp_sat = pytest.mark.skipif(
    find_spec("ortools") is None, reason="ortools is not installed: pip install 'shardyard[exact]'"
)


@pytest.fixture(scope="module")
def counts():
    with asking(by_class) as ask:
        yield ask


@pytest.fixture(scope="module")
def seats():
    with asking(by_node) as ask:
        yield ask


def _contended(devices: int, models: int, seed: int) -> Problem:
    app, inventory = make(devices, models, seed)
    return Problem(inventory=inventory, app=app)


def _agree(problem: Problem, best: float, *, exact: bool) -> None:
    result = solve(problem)
    assert isinstance(result, Plan)
    assert verify(problem, result) == ()
    if plain(problem, result):
        assert result.value <= best * (1 + RELATIVE)
    assert result.dual_bound >= result.bound * (1 - RELATIVE)
    if exact:
        assert result.bound >= best * (1 - RELATIVE)
        if result.proven:
            assert result.value >= best * (1 - RELATIVE)


@highs
@pytest.mark.parametrize(
    ("devices", "models", "seed"), [(62, 10, 0), (62, 10, 1), (62, 10, 2), (258, 40, 0)]
)
def test_counts_by_class_never_lose_and_the_prices_cover_them(
    counts, devices: int, models: int, seed: int
) -> None:
    problem = _contended(devices, models, seed)
    oracle = counts(problem)
    assert oracle.value is not None
    _agree(problem, oracle.value, exact=False)
    result = solve(problem)
    assert isinstance(result, Plan)
    assert result.dual_bound >= oracle.value * (1 - RELATIVE)


@cp_sat
@pytest.mark.parametrize(("devices", "models", "seed"), [(16, 3, 0), (30, 5, 1), (62, 10, 0)])
def test_seats_on_islands_are_the_truth(seats, devices: int, models: int, seed: int) -> None:
    problem = _contended(devices, models, seed)
    oracle = seats(problem, limit_s=20.0)
    result = solve(problem)
    assert isinstance(result, Plan)
    assert verify(problem, result) == ()
    assert result.value <= oracle.limit * (1 + RELATIVE) or not plain(problem, result)
    if oracle.value is not None:
        assert result.bound >= oracle.value * (1 - RELATIVE)
    if oracle.proven:
        _agree(problem, oracle.value or 0.0, exact=True)


@cp_sat
@given(problems())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_small_problems_of_every_rule(seats, problem: Problem) -> None:
    oracle = seats(problem)
    assert oracle.proven
    result = solve(problem)
    if oracle.value is None:
        assert isinstance(result, Infeasible) or not plain(problem, result)
        return
    assert isinstance(result, Plan)
    tolerance = RELATIVE * max(1.0, oracle.value)
    assert result.value >= oracle.value - tolerance
    assert result.value <= oracle.value + tolerance or not plain(problem, result)
