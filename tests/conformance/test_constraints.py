"""Every hard rule: refuses what it should with figures, lets the rest pass, and is in force."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from support.labs import LLAMA_8B, SMOLLM2, cpu, demand, devices, node

from placement import constraints, rules
from placement.catalog import catalog, engines
from placement.constraint import Block, Columns, Option, Pool
from placement.constraints import (
    artifact,
    availability,
    backend,
    bucket,
    capability,
    latency,
    memory,
    parallelism,
    pins,
    power,
    precision,
    presence,
    price,
    remote,
    window,
)
from placement.csp import Capacity, Choice, Coverage, Ordered, Uniform
from placement.devices import Kind
from placement.ids import DeviceId, ModelId, NodeId
from placement.inventory import Artifact, ModelForm, ModelPresence
from placement.layout import Layout
from placement.pyconstraint import BacktrackingSolver, CspProblem
from placement.roofline import Hop, predict

NAMES = [m.name for m in pkgutil.iter_modules(constraints.__path__)]


def option(
    device_class: str = "NVIDIA_L4_24G",
    engine: str = "vllm",
    layout: Layout | None = None,
    **asked: object,
) -> Option:
    kind = catalog()[device_class]
    block = Block(node=NodeId("a"), rack="", island=0, devices=(DeviceId("a/0"), DeviceId("a/1")))
    pool = Pool(
        name=device_class,
        device_class=kind,
        memory_bytes=kind.memory_bytes or 16 * 2**30,
        shares=1,
        emulated=False,
        engines=None,
        artifacts=frozenset(),
        models=frozenset({ModelId("m")}),
        blocks=(block,),
        compiled={},
    )
    wanted = demand("m", LLAMA_8B, **{"context": 1024, "concurrency": 1, **asked})
    layout = layout or Layout(dtype="bf16")
    bare = Option(demand=wanted, facts=LLAMA_8B, pool=pool, engine=engines()[engine], layout=layout)
    try:
        predicted = predict(
            wanted, LLAMA_8B, kind, engines()[engine], layout, device_shares=1, hop=Hop()
        )
    except ZeroDivisionError:
        return bare
    return replace(bare, predicted=predicted)


def in_pool(base: Option, **changes: object) -> Option:
    return replace(base, pool=replace(base.pool, **changes))


def told(base: Option, *forms: ModelForm) -> Option:
    """The option on nodes that tell in which forms its model lies there."""
    return in_pool(base, forms=frozenset({(base.demand.model.source, frozenset(forms))}))


def columns(base: Option) -> Columns:
    """The one option as a batch of one demand and one layout."""
    assert base.layout is not None
    assert base.predicted is not None
    figures = {name: np.array([[value]]) for name, value in asdict(base.predicted).items()}
    return Columns(pool=base.pool, demands=(base.demand,), layouts=(base.layout,), figures=figures)


REFUSED = {
    "pins": (pins.check_option, option(banned=frozenset({"NVIDIA_L4_24G"}))),
    "backend: absent": (
        backend.check_option,
        in_pool(option(), engines=frozenset({"openvino"})),
    ),
    "backend: not asked for": (backend.check_option, option(engines=frozenset({"torch"}))),
    "backend: architecture": (
        backend.check_option,
        replace(option(), facts=replace(LLAMA_8B, architecture="mamba")),
    ),
    "backend: exact": (backend.check_option, option("FURIOSA_RNGD", "furiosa", arithmetic="exact")),
    "capability": (capability.check_option, option(requires=frozenset({"seed", "logprobs"}))),
    "model_missing": (presence.check_option, option(source="package://x")),
    "model_missing: form": (presence.check_option, told(option(), ModelForm(format="gguf"))),
    "window": (window.check_option, option(context=9000)),
    "precision": (precision.check_option, option("NVIDIA_T4_16G")),
    "precision: stored": (
        precision.check_option,
        replace(option("CPU", "openvino"), facts=replace(LLAMA_8B, weights_bytes=5 * 10**9)),
    ),
    "precision: exact": (
        precision.check_option,
        option(arithmetic="exact", layout=Layout(dtype="fp16")),
    ),
    "precision: prepared": (
        precision.check_option,
        told(
            option("CPU", "onnxruntime", Layout(dtype="fp32")),
            ModelForm(format="onnx", dtype="int4"),
            ModelForm(format="gguf"),
        ),
    ),
    "parallelism: heads": (
        parallelism.check_option,
        replace(option(layout=Layout(dtype="bf16", tp=2)), facts=SMOLLM2),
    ),
    "parallelism: island": (
        parallelism.check_option,
        option(layout=Layout(dtype="bf16", tp=4)),
    ),
    "parallelism: link": (
        parallelism.check_option,
        option("INTEL_ARC_B580_12G", "openvino", Layout(dtype="fp16", tp=2)),
    ),
    "parallelism: stages": (
        parallelism.check_option,
        option(layout=Layout(dtype="bf16", pp=33)),
    ),
    "memory": (memory.check_option, option(context=8192, concurrency=64)),
    "latency": (latency.check_option, option(max_ttft_s=1e-6)),
    "latency: token": (latency.check_option, option(max_token_s=1e-6)),
    "power": (power.check_option, option(power_budget_w=1.0)),
    "price": (price.check_option, option(max_price_per_hour=0.01)),
    "artifact": (
        artifact.check_option,
        in_pool(
            option("FURIOSA_RNGD", "furiosa"),
            artifacts=frozenset({Artifact(model="m", device_class="FURIOSA_RNGD", tp=4)}),
        ),
    ),
    "bucket": (
        bucket.check_option,
        in_pool(
            option("FURIOSA_RNGD", "furiosa", concurrency=8),
            artifacts=frozenset({Artifact(model="m", device_class="FURIOSA_RNGD", tp=1, batch=4)}),
        ),
    ),
    "artifact: never built": (
        artifact.check_option,
        option("FURIOSA_RNGD", "furiosa", build="never"),
    ),
    "remote": (
        remote.check_option,
        in_pool(option(), device_class=replace(catalog()["NVIDIA_L4_24G"], kind=Kind.REMOTE)),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_rule_refuses_with_its_name_and_a_reason(case: str) -> None:
    rule, refused = REFUSED[case]
    rejection = rule(refused)
    assert rejection is not None
    assert rejection.constraint == case.partition(":")[0]
    assert rejection.model == "m"
    assert rejection.device_class == refused.pool.device_class.name
    assert len(rejection.reason) > 10
    assert rejection.shortage >= 0


@pytest.mark.parametrize("rule", [*rules.ENGINE_RULES, *rules.LAYOUT_RULES])
def test_an_ordinary_option_passes(rule) -> None:
    assert rule(option()) is None


PREDICTED = {check.__module__.rpartition(".")[2]: (e, check) for e, check in rules.PREDICTED_RULES}


def at_its_limit(name: str, step: int) -> Option:
    """An option that keeps to the named limit by a little (-1), exactly (0), or misses it by a little (1)."""
    base = option()
    assert base.predicted is not None
    if name == "memory":
        return in_pool(base, memory_bytes=base.predicted.memory_bytes - step * 2**20)
    limits = {
        "latency": ("max_ttft_s", base.predicted.ttft_s),
        "power": ("power_budget_w", base.predicted.power_w),
        "price": ("max_price_per_hour", base.predicted.price_per_hour),
    }
    field, figure = limits[name]
    return replace(base, demand=replace(base.demand, **{field: figure * (1 - 0.001 * step)}))


@pytest.mark.parametrize("step", [-1, 0, 1])
@pytest.mark.parametrize("name", PREDICTED)
def test_both_faces_of_a_rule_draw_one_line(name: str, step: int) -> None:
    excess, check = PREDICTED[name]
    own = at_its_limit(name, step)
    missed = float(np.broadcast_to(excess(columns(own)), (1, 1))[0, 0])
    rejection = check(own)
    assert (missed > 0) == (step > 0)
    assert (rejection is not None) == (step > 0)
    if rejection is not None:
        assert rejection.shortage == pytest.approx(missed, abs=1e-3)


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_measure_lets_pass_the_sentence_does_not_refuse(case: str) -> None:
    _, own = REFUSED[case]
    if own.predicted is None:
        pytest.skip("nothing is predicted of it")
    for excess, check in PREDICTED.values():
        missed = float(np.broadcast_to(excess(columns(own)), (1, 1))[0, 0])
        assert (missed > 0) == (check(own) is not None)


@pytest.mark.parametrize("rule", [check for _, check in rules.PREDICTED_RULES])
def test_an_ordinary_option_passes_what_is_predicted(rule) -> None:
    assert rule(option()) is None


def test_node_rules() -> None:
    asked = demand("m", LLAMA_8B, pin_nodes=frozenset({NodeId("b")}))
    free = replace(asked, model=replace(asked.model, id=ModelId("free")), pin_nodes=None)
    plain, wanted = node("a", cpu("a", 2, 8)), node("b", cpu("b", 2, 8))
    cordoned = replace(plain, cordoned=True)
    assert list(availability.refuse_nodes([asked, free], [plain, wanted])) == []
    refused = list(availability.refuse_nodes([asked, free], [cordoned, wanted]))
    assert {(r.model, r.node) for r in refused} == {("m", "a"), ("free", "a")}
    pinned = list(pins.refuse_nodes([asked, free], [plain, wanted]))
    assert [(r.model, r.node, r.constraint) for r in pinned] == [("m", "a", "pins")]


def test_a_declared_device_needs_the_tokenizer_alone() -> None:
    asked = demand("m", LLAMA_8B)
    asked = replace(asked, model=replace(asked.model, tokenizer="package://tok"))
    has = (ModelPresence(source="package://tok", present=True),)
    lab = node("a", devices("a", "NVIDIA_L4_24G", emulated=True), models=has)
    real = node("a", devices("a", "NVIDIA_L4_24G"), models=has)
    assert presence.check_node(asked, lab) is None
    assert presence.check_node(asked, real).constraint == "model_missing"
    assert presence.check_node(asked, replace(real, models=None)) is None


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_is_in_force(name: str) -> None:
    module = importlib.import_module(f"placement.constraints.{name}")
    measured = [excess for excess, _ in rules.PREDICTED_RULES]
    said = [check for _, check in rules.PREDICTED_RULES]
    shapes = {
        "refuse_nodes": rules.NODE_RULES,
        "check_option": (*rules.ENGINE_RULES, *rules.LAYOUT_RULES, *said),
        "excess": measured,
        "rows": rules.ROW_RULES,
    }
    own = [shape for shape in shapes if hasattr(module, shape)]
    assert own
    for shape in own:
        assert getattr(module, shape) in shapes[shape]


def choice(rank: float, amount: float, *, emulated: bool = False, tokens: float = 1.0) -> Choice:
    return Choice(
        model=ModelId("m"),
        candidate=int(rank),
        value=1.0,
        loss=0.0,
        rank=rank,
        usage=((0, amount),),
        emulated=emulated,
        tokens_per_s=tokens,
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Capacity([4.0]), 6),
        (Ordered(), 6),
        (Uniform(), 5),
        (Coverage(5.0, 2, 3.0, waivable=False), 3),
    ],
)
def test_a_stock_solver_agrees_on_what_the_incremental_constraints_allow(
    rule, expected: int
) -> None:
    """Two copies over three values: amounts 1, 2, 3; the last one is emulated; tokens/s 1, 2, 3."""
    values = [choice(k, float(k + 1), emulated=k == 2, tokens=float(k + 1)) for k in range(3)]
    csp = CspProblem(BacktrackingSolver(forwardcheck=False))
    csp.addVariables(["a", "b"], values)
    csp.addConstraint(rule, ["a", "b"])
    assert len(csp.getSolutions()) == expected


def test_withdrawing_restores_a_constraint() -> None:
    for rule in (Capacity([3.0]), Ordered(), Uniform(), Coverage(3.0, 2, 3.0, waivable=False)):
        first, second = choice(1, 2.0, tokens=2.0), choice(0, 2.0, emulated=True, tokens=0.5)
        assert rule.admit(first)
        assert not rule.admit(second)
        rule.withdraw(first)
        assert rule.admit(choice(0, 2.0, emulated=True, tokens=2.0))
