"""What proofs must keep to on small random problems: no honest plan is refused, no lie passes, no better plan is overlooked."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.brute_force import best_value
from support.claims import at, numbers, printed, put, read_back
from support.labs import LLAMA_8B, SMOLLM2, app, cpu, demand, devices, inventory, node

from placement import Plan, Problem, solve
from placement.demand import Budgets, Tenant
from placement.errors import SpecError
from placement.ids import NodeId
from placement.proof import audit, prove
from placement.proof_document import plan_of
from placement.proof_rows import instance_of, priced

ENGINES = frozenset({"vllm", "openvino", "rbln", "emulated"})
EXPLANATIONS = {"seed", "cpu_s", "rejections"}

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
thorough = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def problems(draw, most: int = 3) -> Problem:
    count = draw(st.integers(1, most))
    there = inventory(*(draw(nodes(f"n{k}", most)) for k in range(count)))
    return Problem(inventory=there, app=draw(apps()))


@st.composite
def nodes(draw, name: str, most: int):
    kind = draw(st.sampled_from(("NVIDIA_L4_24G", "NVIDIA_A100_40G", "RBLN_ATOM", "cpu")))
    emulated = draw(st.integers(0, 5)) == 0
    if kind == "cpu":
        found = cpu(name, draw(st.integers(1, most)), 40, emulated=emulated)
    else:
        count = draw(st.integers(1, most))
        islands = draw(st.sampled_from(((), ((0,), (1, 2)))))
        found = devices(name, kind, count, islands=islands, emulated=emulated)
    return node(
        name,
        found,
        rack=draw(st.sampled_from(("r1", "r2"))),
        cordoned=draw(st.integers(0, 9)) == 0,
    )


@st.composite
def demands(draw, name: str):
    low = draw(st.integers(0, 1))
    return demand(
        name,
        draw(st.sampled_from((SMOLLM2, LLAMA_8B))),
        (low, max(low, draw(st.integers(1, 2)))),
        concurrency=draw(st.sampled_from((1, 8))),
        spread=draw(st.sampled_from(("none", "none", "node", "rack"))),
        engines=ENGINES,
        priority=draw(st.integers(0, 2)),
        tenant=draw(st.sampled_from(("a", "b"))),
        power_budget_w=draw(st.sampled_from((None, None, 150.0))),
        min_tokens_per_s=draw(st.sampled_from((None, None, 300.0))),
        max_price_per_hour=draw(st.sampled_from((None, None, 1.5))),
        pin_nodes=draw(st.sampled_from((None, None, None, frozenset({NodeId("n0")})))),
    )


@st.composite
def apps(draw):
    asked = tuple(draw(demands(name)) for name in ("m1", "m2.x")[: draw(st.integers(1, 2))])
    return app(
        *asked,
        policy=draw(st.sampled_from(("balanced", "latency", "energy", "cost"))),
        budgets=Budgets(
            cluster_w=draw(st.sampled_from((None, None, 200.0))),
            node_w=draw(st.sampled_from((None, None, 120.0))),
            rack_w=draw(st.sampled_from((None, None, 150.0))),
        ),
        tenants=(
            Tenant(
                name="a",
                max_devices=draw(st.sampled_from(((), (("NVIDIA_L4_24G", 1),)))),
                exclusive_nodes=draw(st.integers(0, 3)) == 0,
            ),
        ),
    )


@given(problems())
@quick
def test_every_plan_of_the_solver_holds_after_the_document(problem: Problem) -> None:
    plan = solve(problem)
    assume(isinstance(plan, Plan))
    assert isinstance(plan, Plan)
    document = printed(plan)
    assert plan_of(document) == plan
    assert read_back(problem, document).faults == ()


@given(problems(), st.data())
@thorough
def test_one_changed_number_is_refused_or_changes_nothing(problem: Problem, data) -> None:
    plan = solve(problem)
    assume(isinstance(plan, Plan))
    assert isinstance(plan, Plan)
    document = printed(plan)
    path = data.draw(st.sampled_from([p for p in numbers(document) if p[0] not in EXPLANATIONS]))
    old = at(document, path)
    new = data.draw(st.sampled_from((old + 1, old * 1.01, old * 2, -old, old - 1, 0, 10**9)))
    assume(abs(new - old) > 1e-3 * abs(old))
    changed = deepcopy(document)
    put(changed, path, new)
    try:
        faults = read_back(problem, changed).faults
    except SpecError:
        return
    if faults or "why" in path:
        return
    # Another price may prove the very same bound; then the plan is as good as before.
    assert path[0] == "prices", (path, old, new)
    assert abs(priced(instance_of(problem), changed["prices"]).bound - plan.dual_bound) <= 1e-5


@given(problems(most=2), st.floats(0, 0.2))
@quick
def test_prices_and_searches_agree_with_brute_force(problem: Problem, price: float) -> None:
    best = best_value(problem)
    assume(best is not None and best > 0)
    assert best is not None
    instance = instance_of(problem)
    prices = {name: price for name in instance.rows if not name.startswith("throughput")}
    assert priced(instance, prices).bound >= best - 1e-9
    for known in ({}, prices):
        assert prove(problem, known, best).complete
        found = prove(problem, known, best - 0.01)
        assert not found.complete
        assert found.better is not None
        assert best - 0.01 < found.better <= best + 1e-6


@given(problems())
@quick
def test_a_claim_above_or_below_the_best_is_refused(problem: Problem) -> None:
    plan = solve(problem)
    assume(isinstance(plan, Plan))
    assert isinstance(plan, Plan)
    assume(plan.slots)
    document = printed(plan)
    for factor in (0.9, 1.1):
        lie = {**document, "value": plan.value * factor}
        assert read_back(problem, lie).faults
        lie = {**document, "bound": plan.bound * factor, "gap": 0.0}
        assert read_back(problem, lie).faults
    assert audit(problem, plan).faults == ()
