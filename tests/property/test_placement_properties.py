"""What every placement must keep to, on small random problems."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from math import ceil

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from support.brute_force import best_value
from support.labs import LLAMA_8B, SMOLLM2, app, demand, devices, inventory, node, with_change
from support.problems import CLASSES, MODELS, NODES, plain, problems, renamed

from placement import Infeasible, Plan, Problem, diff, solve, verify
from placement.catalog import catalog, engines_for
from placement.codec import decode, encode
from placement.demand import App, Demand
from placement.devices import BYTES_PER_VALUE, Health
from placement.ids import NodeId
from placement.inventory import Inventory
from placement.plan import Rejection, Slot
from placement.units import GIB

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
thorough = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _across() -> Problem:
    """A model that needs both nodes, beside one that may use only the first of them."""
    return Problem(
        inventory=inventory(*(node(n, devices(n, "NVIDIA_T4_16G", 1)) for n in ("n0", "n1"))),
        app=app(
            demand("m1", LLAMA_8B, (0, 1), context=512, concurrency=1, priority=3),
            demand("m2", SMOLLM2, (0, 1), pin_nodes=frozenset({NodeId("n0")})),
        ),
    )


@given(problems())
@example(_across())
@thorough
def test_a_small_problem_equals_brute_force(problem: Problem) -> None:
    expected = best_value(problem)
    result = solve(problem)
    if isinstance(result, Infeasible):
        assert expected is None
        return
    tolerance = 1e-6 * max(1.0, result.value)
    if plain(problem, result):
        assert expected is not None
        assert result.value <= expected + tolerance
    if expected is not None:
        assert result.value >= expected - tolerance
        assert result.bound >= expected - tolerance
    assert not result.proven or result.bound - result.value <= 1e-6 * abs(result.bound)


@given(problems())
@quick
def test_the_verifier_accepts_every_plan(problem: Problem) -> None:
    result = solve(problem)
    assume(isinstance(result, Plan))
    assert isinstance(result, Plan)
    assert verify(problem, result) == ()
    assert result.bound >= result.value - 1e-9 * abs(result.value)


@given(problems())
@quick
def test_solving_twice_gives_the_same_and_solving_on_keeps_everything(problem: Problem) -> None:
    first = solve(problem)
    assert solve(problem) == first
    assume(isinstance(first, Plan))
    again = solve(replace(problem, current=first))
    assert isinstance(again, Plan)
    assert abs(again.value - first.value) <= 1e-6 * max(1.0, first.value)
    if first.proven:
        assert [change.kind for change in diff(first, again)] == ["keep"] * len(first.slots)


@given(problems(), st.integers(1, 1000))
@quick
def test_another_seed_changes_no_proven_worth(problem: Problem, seed: int) -> None:
    first, second = solve(problem), solve(replace(problem, seed=seed))
    assert type(first) is type(second)
    if isinstance(first, Plan) and isinstance(second, Plan) and first.proven and second.proven:
        assert abs(first.value - second.value) <= 1e-6 * max(1.0, first.value)


@given(problems(), st.integers(0, 30))
@example(_across(), 0)
@thorough
def test_a_deadline_gives_a_plan_that_holds_or_says_no(problem: Problem, polls: int) -> None:
    seen = 0

    def should_stop() -> bool:
        nonlocal seen
        seen += 1
        return seen > polls

    result = solve(problem, should_stop)
    if isinstance(result, Plan):
        assert verify(problem, result) == ()
        assert result.bound >= result.value - 1e-9 * abs(result.value)
        whole = solve(problem)
        assert isinstance(whole, Plan)
        tolerance = 1e-6 * max(1.0, whole.value)
        assert not result.proven or result.value >= whole.value - tolerance
        assert result.bound >= whole.value - tolerance
    else:
        assert result.conflict
        assert set(result.conflict) <= {d.id for d in problem.app.demands}
        assert isinstance(solve(problem), Infeasible) or seen > polls


@given(problems(), st.sampled_from(CLASSES))
@quick
def test_one_more_device_never_hurts(problem: Problem, device_class: str) -> None:
    extra = node("z", devices("z", device_class, 1), rack="r9")
    wider = replace(problem.inventory, nodes=(*problem.inventory.nodes, extra))
    _never_worse(problem, replace(problem, inventory=wider))


@given(problems(), st.integers(0, 2))
@quick
def test_one_more_device_on_a_node_never_hurts(problem: Problem, which: int) -> None:
    found = list(problem.inventory.nodes)
    index = which % len(found)
    own = found[index]
    assume(own.devices[0].shares == 1)
    more = replace(own.devices[0], id=type(own.devices[0].id)(f"{own.id}/9"), health=Health.HEALTHY)
    found[index] = replace(own, devices=(*own.devices, more))
    wider = replace(problem.inventory, nodes=tuple(found))
    _never_worse(problem, replace(problem, inventory=wider))


def _never_worse(problem: Problem, wider: Problem) -> None:
    before, after = solve(problem), solve(wider)
    if isinstance(before, Plan):
        assert isinstance(after, Plan)
        assert after.value >= before.value - 1e-6 * max(1.0, before.value)


@given(problems(), st.permutations(NODES), st.permutations(MODELS))
@quick
def test_renaming_nodes_and_models_changes_no_worth(
    problem: Problem, nodes: list[str], models: list[str]
) -> None:
    new = dict(zip((*NODES, *MODELS), (*nodes, *models), strict=True))
    before, after = solve(problem), solve(renamed(problem, new))
    assert type(before) is type(after)
    if isinstance(before, Plan) and isinstance(after, Plan):
        assert abs(before.value - after.value) <= 1e-6 * max(1.0, before.value)
        assert len(before.slots) == len(after.slots)


@given(problems())
@quick
def test_new_names_in_the_same_order_rename_the_plan(problem: Problem) -> None:
    new = {name: f"x-{name}" for name in (*NODES, *MODELS)}
    before, after = solve(problem), solve(renamed(problem, new))
    assert type(before) is type(after)
    if isinstance(before, Plan) and isinstance(after, Plan):
        assert [_names(slot, new) for slot in before.slots] == [
            _names(slot, {}) for slot in after.slots
        ]


def _names(slot: Slot, new: dict[str, str]) -> tuple[object, ...]:
    """What a slot is and where, by the new names."""
    devices_of_it = []
    for device in slot.devices:
        where, _, position = device.partition("/")
        devices_of_it.append(f"{new.get(where, where)}/{position}")
    model = new.get(slot.model, slot.model)
    return model, slot.id.partition("/")[2], slot.engine, slot.tp, slot.pp, devices_of_it


@given(problems())
@quick
def test_every_listed_rejection_is_true(problem: Problem) -> None:
    result = solve(problem)
    for rejection in result.rejections:
        asked = next(d for d in problem.app.demands if d.id == rejection.model)
        if rejection.constraint == "availability" and rejection.device_class:
            where = problem.inventory.node(NodeId(rejection.node))
            assert where is not None
            sick = [d for d in where.devices if d.health is not Health.HEALTHY]
            assert len(sick) == rejection.shortage
        if rejection.constraint == "availability" and not rejection.device_class:
            where = problem.inventory.node(NodeId(rejection.node))
            assert where is not None
            assert where.cordoned
        if rejection.constraint == "pins" and rejection.node:
            assert rejection.node not in (asked.pin_nodes or ())
        if rejection.constraint == "memory":
            assert rejection.shortage in _memory_shortages(problem, asked, rejection)
        if rejection.constraint == "latency":
            assert asked.max_ttft_s is not None
            assert rejection.shortage > 0
        if rejection.constraint == "parallelism":
            facts = asked.model.facts
            assert facts is not None
            healthy = Counter(
                (d.node, d.island, d.speed, d.memory_bytes, d.shares)
                for n in problem.inventory.nodes
                for d in n.devices
                if d.health is Health.HEALTHY
                and not n.cordoned
                and d.device_class == rejection.device_class
                and d.emulated == (rejection.engine == "emulated")
            )
            assert facts.heads % rejection.tp or min(healthy.values()) < rejection.tp


def _memory_shortages(problem: Problem, asked: Demand, rejection: Rejection) -> set[float]:
    """GiB by which each number of stages or shares misses on a device of that class, as sampled here."""
    facts = asked.model.facts
    assert facts is not None
    device_class = catalog()[rejection.device_class]
    emulated = rejection.engine == "emulated"
    engine = next(
        e
        for e in engines_for(device_class, emulated=emulated, extra=problem.inventory.engines)
        if e.name == rejection.engine
    )
    stored = engine.stored_weights and facts.weights_bytes
    each = [BYTES_PER_VALUE[dtype] * facts.parameters for dtype in engine.dtypes]
    token = 4 * facts.layers * facts.kv_heads * facts.head_dim
    token *= 2 if asked.arithmetic == "exact" else 1
    kv = token * asked.context * asked.concurrency
    found = set()
    sizes = [device_class.memory_bytes] if device_class.memory_bytes else [4 * GIB, 40 * GIB]
    for pp, shares, memory, weights in product(
        (1, 2, 3, 4),
        ((1, 1), (1, 2), (2, 2)),
        sizes,
        [facts.weights_bytes] if stored else each,
    ):
        part = -(-facts.layers // pp) / facts.layers
        split = weights / rejection.tp + kv / min(rejection.tp, facts.kv_heads)
        needed = ceil(part * split + engine.overhead_bytes)
        found.add(round((needed - memory * shares[0] // shares[1]) / GIB, 3))
    return found


@given(problems())
@quick
def test_every_fix_fixes(problem: Problem) -> None:
    result = solve(problem)
    assume(isinstance(result, Infeasible))
    assert isinstance(result, Infeasible)
    assert result.conflict
    assert result.fixes
    for fix in result.fixes:
        milder = replace(problem, app=with_change(problem.app, fix))
        assert isinstance(solve(milder), Plan), fix.says


@given(problems())
@quick
def test_json_round_trip(problem: Problem) -> None:
    assert decode(Inventory, encode(problem.inventory)) == problem.inventory
    assert decode(App, encode(problem.app)) == problem.app
    result = solve(problem)
    assert decode(type(result), encode(result)) == result
