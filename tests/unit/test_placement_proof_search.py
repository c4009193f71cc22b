"""The verifier's search for a better plan: what it says is to come is never too much, and it ends where plans are best."""

from __future__ import annotations

from itertools import product
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import instances
from placement import Plan, Problem, solve
from placement.proof import audit, prove
from placement.proof_growth import Demands, grow, nothing_yet
from placement.proof_outlook import Choices, Outlook
from placement.proof_seats import OutOfSteps, Steps

AMOUNTS = {
    "whole": st.integers(0, 6).map(float),
    "real": st.floats(0, 6, allow_subnormal=False).map(lambda x: round(x, 3)),
}


def models(kind: str):
    pair = st.tuples(st.integers(0, 9).map(float), AMOUNTS[kind])
    return st.lists(st.lists(pair, min_size=1, max_size=4).map(sorted), min_size=1, max_size=4)


def as_choices(model: list[tuple[float, float]]) -> Choices:
    return Choices(
        lost=np.array([lost for lost, _ in model]), usage=np.array([[taken for _, taken in model]])
    )


def least(to_come: list[list[tuple[float, float]]], left: float, price: float) -> float:
    """The least loss of the rest with the price of what it leaves free, by trying everything."""
    found = inf
    for chosen in product(*to_come):
        taken = sum(amount for _, amount in chosen)
        if taken <= left:
            found = min(found, sum(lost for lost, _ in chosen) + price * (left - taken))
    return found


@pytest.mark.parametrize("kind", AMOUNTS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_an_outlook_is_exact_in_whole_amounts_and_never_too_much(
    kind: str, data: st.DataObject
) -> None:
    to_come = data.draw(models(kind))
    limit = float(data.draw(st.integers(1, 15)))
    price = data.draw(st.sampled_from((0.0, 0.5, 3.0)))
    load = data.draw(AMOUNTS[kind])
    level = data.draw(st.integers(0, len(to_come)))
    outlook = Outlook(0, limit, limit + 1e-9, price, [as_choices(m) for m in to_come])
    said = float(outlook.table(level).least(np.array([load]))[0])
    right = least(to_come[level:], limit - load, price) if load <= limit else inf
    if kind == "whole":
        assert said == pytest.approx(right)
    else:
        assert said <= right + 1e-6


@settings(max_examples=80, deadline=None)
@given(to_come=models("whole"), allowed=st.integers(1, 25), limit=st.integers(0, 12))
def test_growing_keeps_what_may_end_well_and_nothing_else(
    to_come: list[list[tuple[float, float]]], allowed: int, limit: int
) -> None:
    choices = [as_choices(model) for model in to_come]
    partials, steps = nothing_yet(1), Steps(10**6)
    outlook = Outlook(0, limit, limit + 1e-9, 0.5, choices)
    for level, own in enumerate(choices):
        rest = choices[level + 1 :]
        demands = Demands(
            allowed=float(allowed),
            room=np.array([limit + 1e-9 - sum(c.usage.min() for c in rest)]),
            full=np.array([limit - sum(c.usage.max() for c in rest)]),
            prices=np.array([0.5]),
            outlooks={0: outlook.table(level + 1)},
        )
        partials = grow(partials, own, demands, steps)
    kept = {tuple(column) for column in partials.chosen.T.tolist()}
    expected = set()
    for chosen in product(*(range(len(model)) for model in to_come)):
        lost = sum(model[k][0] for model, k in zip(to_come, chosen, strict=True))
        taken = sum(model[k][1] for model, k in zip(to_come, chosen, strict=True))
        if taken <= limit and lost + 0.5 * (limit - taken) < allowed:
            expected.add(chosen)
    assert kept == expected


def test_growing_stops_where_its_steps_end() -> None:
    choices = Choices(lost=np.zeros(100), usage=np.zeros((1, 100)))
    demands = Demands(
        allowed=1.0, room=np.ones(1), full=np.zeros(1), prices=np.zeros(1), outlooks={}
    )
    partials, steps = nothing_yet(1), Steps(5000)
    partials = grow(partials, choices, demands, steps)
    assert partials.count == 100
    with pytest.raises(OutOfSteps):
        grow(partials, choices, demands, steps)


@pytest.mark.parametrize("seed", [3, 5])
def test_a_contended_cluster_is_proven_and_a_lesser_plan_is_not(seed: int) -> None:
    app, inventory = instances.make(62, 10, seed)
    problem = Problem(app=app, inventory=inventory, seed=seed)
    plan = solve(problem)
    assert isinstance(plan, Plan)
    assert plan.proof == "search"
    assert plan.bound < plan.dual_bound
    assert audit(problem, plan).faults == ()
    lesser = prove(problem, dict(plan.prices), plan.value * 0.9999)
    assert not lesser.complete
    assert lesser.better == pytest.approx(plan.value)
    assert not prove(problem, dict(plan.prices), plan.value, max_steps=100).complete
