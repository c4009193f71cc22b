"""What every placement must keep to, on small random problems."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from math import ceil

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.brute_force import best_value
from support.labs import (
    LLAMA_8B,
    SMOLLM2,
    app,
    cpu,
    demand,
    devices,
    inventory,
    node,
    with_change,
)

from placement import Infeasible, Plan, Problem, diff, solve, verify
from placement.catalog import catalog, engines_for
from placement.codec import decode, encode
from placement.demand import App, Budgets, Demand, Tenant
from placement.devices import Health
from placement.ids import DeviceId, NodeId
from placement.inventory import Inventory
from placement.plan import Rejection
from placement.units import GIB

CLASSES = ("NVIDIA_L4_24G", "NVIDIA_T4_16G", "RBLN_ATOM", "NVIDIA_A100_40G")
ENGINES = frozenset({"vllm", "openvino", "rbln", "emulated"})

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
thorough = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def nodes(draw, name: str):
    kind = draw(st.sampled_from((*CLASSES, "cpu")))
    rack = draw(st.sampled_from(("r1", "r2")))
    emulated = draw(st.booleans()) and draw(st.booleans())
    cordoned = draw(st.integers(0, 9)) == 0
    if kind == "cpu":
        found = cpu(
            name, draw(st.sampled_from((1, 2))), draw(st.sampled_from((4, 40))), emulated=emulated
        )
    else:
        found = devices(
            name,
            kind,
            draw(st.integers(1, 2)),
            unhealthy=(0,) if draw(st.integers(0, 7)) == 0 else (),
            emulated=emulated,
        )
    return node(name, found, rack=rack, cordoned=cordoned)


@st.composite
def inventories(draw) -> Inventory:
    count = draw(st.integers(1, 3))
    return inventory(*(draw(nodes(f"n{k}")) for k in range(count)))


@st.composite
def demands(draw, name: str):
    low = draw(st.integers(0, 2))
    return demand(
        name,
        draw(st.sampled_from((SMOLLM2, LLAMA_8B))),
        (low, max(low, draw(st.integers(1, 2)))),
        context=draw(st.sampled_from((512, 4096))),
        concurrency=draw(st.sampled_from((1, 8))),
        spread=draw(st.sampled_from(("none", "node", "rack"))),
        engines=ENGINES,
        priority=draw(st.integers(0, 3)),
        tenant=draw(st.sampled_from(("a", "b"))),
        power_budget_w=draw(st.sampled_from((None, None, 100.0))),
        min_tokens_per_s=draw(st.sampled_from((None, None, 300.0))),
        max_price_per_hour=draw(st.sampled_from((None, None, 1.0))),
        max_ttft_s=draw(st.sampled_from((None, None, 0.5))),
        pin_nodes=draw(st.sampled_from((None, None, frozenset({NodeId("n0")})))),
    )


@st.composite
def apps(draw) -> App:
    asked = tuple(draw(demands(name)) for name in ("m1", "m2")[: draw(st.integers(1, 2))])
    return app(
        *asked,
        policy=draw(st.sampled_from(("balanced", "latency", "throughput", "energy", "cost"))),
        budgets=Budgets(
            cluster_w=draw(st.sampled_from((None, None, 200.0))),
            node_w=draw(st.sampled_from((None, None, 120.0))),
            rack_w=draw(st.sampled_from((None, None, 120.0))),
        ),
        tenants=(
            Tenant(
                name="a",
                max_devices=draw(st.sampled_from(((), (("NVIDIA_L4_24G", 1),)))),
                exclusive_nodes=draw(st.integers(0, 3)) == 0,
            ),
        ),
    )


@st.composite
def problems(draw) -> Problem:
    return Problem(inventory=draw(inventories()), app=draw(apps()))


@given(problems())
@thorough
def test_a_small_problem_equals_brute_force(problem: Problem) -> None:
    expected = best_value(problem)
    result = solve(problem)
    if isinstance(result, Infeasible):
        assert expected is None
        return
    assert expected is not None
    assert abs(result.value - expected) <= 1e-6 * max(1.0, expected)
    assert result.bound >= expected - 1e-6
    assert not result.proven or result.bound - result.value <= 1e-6 * abs(result.bound)


@given(problems())
@quick
def test_the_verifier_accepts_every_plan(problem: Problem) -> None:
    result = solve(problem)
    assume(isinstance(result, Plan))
    assert verify(problem, result) == ()


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


@given(problems(), st.sampled_from(CLASSES))
@quick
def test_one_more_device_never_hurts(problem: Problem, device_class: str) -> None:
    before = solve(problem)
    extra = node("z", devices("z", device_class, 1), rack="r9")
    wider = replace(problem.inventory, nodes=(*problem.inventory.nodes, extra))
    after = solve(replace(problem, inventory=wider))
    if isinstance(before, Plan):
        assert isinstance(after, Plan)
        assert after.value >= before.value - 1e-6


@given(problems(), st.permutations(("n0", "n1", "n2")))
@quick
def test_renaming_nodes_changes_no_worth(problem: Problem, names: list[str]) -> None:
    new = {f"n{k}": name for k, name in enumerate(names)}
    renamed = Problem(
        inventory=_renamed(problem.inventory, new),
        app=replace(
            problem.app,
            demands=tuple(
                replace(d, pin_nodes=frozenset(NodeId(new[n]) for n in d.pin_nodes))
                if d.pin_nodes
                else d
                for d in problem.app.demands
            ),
        ),
    )
    before, after = solve(problem), solve(renamed)
    assert type(before) is type(after)
    if isinstance(before, Plan) and isinstance(after, Plan):
        assert abs(before.value - after.value) <= 1e-6 * max(1.0, before.value)
        assert len(before.slots) == len(after.slots)


def _renamed(whole: Inventory, new: dict[str, str]) -> Inventory:
    return inventory(
        *(
            replace(
                n,
                id=NodeId(new[n.id]),
                devices=tuple(
                    replace(
                        d,
                        node=NodeId(new[n.id]),
                        id=DeviceId(f"{new[n.id]}/{d.id.partition('/')[2]}"),
                    )
                    for d in n.devices
                ),
            )
            for n in whole.nodes
        )
    )


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
            assert rejection.shortage in _memory_shortages(asked, rejection)
        if rejection.constraint == "latency":
            assert asked.max_ttft_s is not None
            assert rejection.shortage > 0
        if rejection.constraint == "parallelism":
            facts = asked.model.facts
            assert facts is not None
            healthy = Counter(
                (d.node, d.island)
                for n in problem.inventory.nodes
                for d in n.devices
                if d.health is Health.HEALTHY
                and not n.cordoned
                and d.device_class == rejection.device_class
                and d.emulated == (rejection.engine == "emulated")
            )
            assert facts.heads % rejection.tp or min(healthy.values()) < rejection.tp


def _memory_shortages(asked: Demand, rejection: Rejection) -> set[float]:
    """GiB by which each number of stages or shares misses on a device of that class, as sampled here."""
    facts = asked.model.facts
    assert facts is not None
    device_class = catalog()[rejection.device_class]
    emulated = rejection.engine == "emulated"
    engine = next(
        e for e in engines_for(device_class, emulated=emulated) if e.name == rejection.engine
    )
    stored = engine.stored_weights and facts.weights_bytes
    weights = facts.weights_bytes if stored else 2 * facts.parameters
    token = 4 * facts.layers * facts.kv_heads * facts.head_dim
    kv = token * asked.context * asked.concurrency
    found = set()
    sizes = [device_class.memory_bytes] if device_class.memory_bytes else [4 * GIB, 40 * GIB]
    for pp, shares, memory in product((1, 2, 3, 4), ((1, 1), (1, 2), (2, 2)), sizes):
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
