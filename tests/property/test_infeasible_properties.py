"""What is said of a spec that cannot be placed is true, on small random problems."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.labs import LLAMA_8B, LLAMA_70B, SMOLLM2, app, demand, with_change
from support.problems import CLASSES, inventories, problems

from orchestrator.what_if import KeyChange, parse_what_if
from placement import Infeasible, Plan, Problem, solve
from placement.contention import contention, contention_of
from placement.demand import Budgets, Tenant
from placement.elastic import elastic
from placement.planner import attempt
from placement.what_if import changed

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def crowded(draw) -> Problem:
    """More models that must run than fit most of the time."""
    asked = tuple(
        demand(
            name,
            draw(st.sampled_from((SMOLLM2, LLAMA_8B, LLAMA_8B, LLAMA_70B))),
            draw(st.integers(1, 3)),
            context=1024,
            concurrency=draw(st.sampled_from((1, 8))),
            priority=draw(st.integers(0, 2)),
            spread=draw(st.sampled_from(("none", "none", "node"))),
            tenant=draw(st.sampled_from(("a", "b"))),
        )
        for name in ("v1.5", "w", "x", "y")[: draw(st.integers(2, 4))]
    )
    budgets = Budgets(
        cluster_w=draw(st.sampled_from((None, None, 250.0))),
        node_w=draw(st.sampled_from((None, None, 150.0))),
    )
    quota = tuple((name, 1) for name in CLASSES[: draw(st.integers(0, 2))])
    whole = app(*asked, budgets=budgets, tenants=(Tenant(name="a", max_devices=quota),))
    return Problem(inventory=draw(inventories()), app=whole)


def refused(problem: Problem) -> Infeasible:
    result = solve(problem)
    assume(isinstance(result, Infeasible))
    assert isinstance(result, Infeasible)
    return result


@given(st.one_of(problems(), crowded()))
@quick
def test_every_fix_fixes_and_every_addition_is_enough(problem: Problem) -> None:
    result = refused(problem)
    assert result.fixes
    for fix in result.fixes:
        milder = replace(problem, app=with_change(problem.app, fix))
        assert isinstance(solve(milder), Plan), fix
    for addition in result.additions:
        change = parse_what_if(addition.what_if)
        assert not isinstance(change, KeyChange)
        wider = replace(problem, inventory=changed(problem.inventory, (change,)))
        assert isinstance(solve(wider), Plan), addition


@given(crowded())
@quick
def test_a_conflict_fails_alone_and_no_part_of_it_is_left_over(problem: Problem) -> None:
    result = refused(problem)
    assume(all(r.constraint != "search" for r in result.rejections))
    demands = {d.id: d for d in problem.app.demands}

    def part(names: tuple[str, ...]) -> Problem:
        asked = tuple(demands[name] for name in names)
        return replace(problem, app=replace(problem.app, demands=asked))

    assert isinstance(solve(part(result.conflict)), Infeasible)
    for name in result.conflict:
        rest = tuple(other for other in result.conflict if other != name)
        assert isinstance(solve(part(rest)), Plan)


@given(st.one_of(problems(), crowded()))
@quick
def test_prices_prove_a_conflict_exactly_when_something_is_missing(problem: Problem) -> None:
    whole = contention(problem)
    short = elastic(whole)
    assert short.complete
    assert whole.proves(short.prices) == bool(short.missing)
    if whole.proves(short.prices):
        assert isinstance(solve(problem), Infeasible)
        few = whole.fewest(short.prices)
        assert whole.among(few).proves(short.prices)


@given(problems(), st.integers(0, 5))
@quick
def test_no_prices_prove_a_conflict_where_there_is_a_plan(problem: Problem, seed: int) -> None:
    assume(isinstance(solve(problem), Plan))
    whole = contention(problem)
    draw = np.random.default_rng(seed)
    for _ in range(20):
        assert not whole.proves(draw.random(len(whole.rows)) ** 4)


@given(crowded())
@quick
def test_what_the_planner_tabulated_says_the_same_as_a_table_of_its_own(problem: Problem) -> None:
    table = attempt(problem, lambda: False, first=True).table
    assert table is not None
    known, own = contention_of(problem.app, table), contention(problem)
    assert known.models == own.models
    assert known.hopeless == own.hopeless
    assert dict(zip(known.rows, known.limits, strict=True)).items() <= (
        dict(zip(own.rows, own.limits, strict=True)).items()
    )
    prices = np.ones(len(known.rows))
    by_name = dict(zip(known.rows, prices, strict=True))
    same = np.array([by_name.get(row, 0.0) for row in own.rows])
    assert np.allclose(known.cheapest(prices), own.cheapest(same))
