"""Prices from HiGHS: what they prove, and the message without it."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from placement.bounds import Path
from placement.bounds_lp import lp_prices
from placement.errors import PlacementError
from placement.relaxation import Relaxed

with_highs = pytest.mark.skipif(
    find_spec("highspy") is None, reason="highspy is not installed: pip install 'shardyard[lp]'"
)


def relaxed(least: float = 1.0) -> Relaxed:
    """Two models of 1..2 copies that want the same 3 devices; a third row asks for a minimum of the first model."""
    return Relaxed(
        values=np.array([4.0, 3.0, 5.0, 2.0]),
        usage=np.array([[2 / 3, 0.0, 0.0], [1 / 3, 0.5, -1.0], [2 / 3, 0.0, 0.0], [0.0, 0.5, 0.0]]),
        unit=np.array([3.0, 2.0, 1.0]),
        limits=np.array([1.0, 1.0, -1.0]),
        rows=np.array([0, 1, 2]),
        starts=np.array([0, 2]),
        least=np.array([least, 1.0]),
        most=np.array([2.0, 2.0]),
    )


@with_highs
def test_the_prices_prove_what_the_smoothed_dual_approaches() -> None:
    problem = relaxed()
    path = Path(problem, None)
    path.follow()
    prices = lp_prices(problem)
    assert (prices >= 0).all()
    assert problem.bound_at(prices) == pytest.approx(problem.bound_at(path.purged()), rel=1e-3)
    assert problem.bound_at(prices) <= problem.bound_at(path.purged()) + 1e-9


@with_highs
def test_the_same_relaxation_gives_the_same_prices() -> None:
    assert lp_prices(relaxed()).tolist() == lp_prices(relaxed()).tolist()


@with_highs
def test_no_prices_where_the_program_has_no_solution() -> None:
    problem = relaxed(least=2.0)
    problem.limits[0] = 1e-3
    assert not lp_prices(problem).any()


@pytest.mark.skipif(find_spec("highspy") is not None, reason="highspy is installed")
def test_without_highspy_the_error_names_the_extra() -> None:
    with pytest.raises(PlacementError, match="highspy is not installed") as caught:
        lp_prices(relaxed())
    assert "shardyard[lp]" in caught.value.hint
