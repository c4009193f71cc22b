"""What engines can do decides where models go: forms that they read, dtypes, capabilities, preference; also of other people's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.labs import LLAMA_8B, SMOLLM2, app, cpu, demand, devices, inventory, node

from placement import Infeasible, Plan, Problem, solve, verify
from placement.catalog import catalog, engines, engines_for, layout_engine
from placement.codec import decode, encode
from placement.demand import Demand
from placement.engine_facts import CAPABILITIES, EngineFacts, engine_of, flaw, row_of
from placement.errors import SpecError
from placement.inventory import Inventory, ModelForm, ModelPresence
from placement.plan import Rejection
from placement.pools import collapse, node_rejections
from placement.proof import audit

SOURCE = "file:///models/m"
GGUF, SAFETENSORS = ModelForm(format="gguf"), ModelForm(format="safetensors")
ONNX_FP32, ONNX_INT4 = (ModelForm(format="onnx", dtype=d) for d in ("fp32", "int4"))
THEIRS = EngineFacts(
    name="theirs",
    drives=frozenset({"samsung/pim", "generic/cpu"}),
    yields=frozenset({"generic/cpu"}),
    dtypes=("fp16",),
    formats=frozenset({"safetensors"}),
    offers=frozenset({"logprobs"}),
)


def has(*forms: ModelForm) -> tuple[ModelPresence, ...]:
    return (ModelPresence(source=SOURCE, present=True, forms=forms),)


def small(**asked: object) -> Demand:
    return demand("m", SMOLLM2, source=SOURCE, context=512, concurrency=1, **asked)


def processors(**forms: tuple[ModelForm, ...]) -> Inventory:
    """One processor for each name."""
    return inventory(*(node(n, cpu(n, 4, 32), models=has(*own)) for n, own in forms.items()))


def solved(there: Inventory, *asked: Demand) -> Plan:
    """The plan, which holds as verified and as derived anew."""
    problem = Problem(inventory=there, app=app(*asked))
    plan = solve(problem)
    assert isinstance(plan, Plan), plan
    assert audit(problem, plan).faults == ()
    return plan


def refused(there: Inventory, *asked: Demand) -> tuple[Rejection, ...]:
    result = solve(Problem(inventory=there, app=app(*asked)))
    assert isinstance(result, Infeasible)
    return result.rejections


# -- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forms", "readers"),
    [
        ((), {"openvino", "onnxruntime", "llamacpp", "torch", "vllm"}),
        ((GGUF,), {"openvino", "llamacpp"}),
        ((SAFETENSORS,), {"torch", "vllm"}),
        ((ONNX_INT4,), {"onnxruntime"}),
        ((GGUF, ONNX_FP32), {"openvino", "llamacpp", "onnxruntime"}),
    ],
)
def test_an_engine_runs_only_where_it_can_read_a_form(
    forms: tuple[ModelForm, ...], readers: set[str]
) -> None:
    there = processors(a=forms)
    for name in ("openvino", "onnxruntime", "llamacpp", "torch", "vllm"):
        asked = small(engines=frozenset({name}))
        if name in readers:
            assert {s.engine for s in solved(there, asked).slots} == {name}
        else:
            assert "model_missing" in {r.constraint for r in refused(there, asked)}


def test_a_form_that_is_missing_comes_with_the_command_that_makes_it() -> None:
    def hint(name: str, *forms: ModelForm) -> str:
        found = refused(processors(a=forms), small(engines=frozenset({name})))
        return next(r.hint for r in found if r.constraint == "model_missing" and r.engine == name)

    assert hint("vllm", GGUF) == f"shardyard prepare {SOURCE} --form safetensors"
    assert hint("onnxruntime", GGUF) == f"shardyard prepare {SOURCE} --form onnx"
    assert hint("llamacpp", SAFETENSORS) == f"bring {SOURCE} there as gguf"


def test_a_prepared_form_makes_any_kind_of_source_readable() -> None:
    shipped = demand("m", SMOLLM2, source="package://x", engines=frozenset({"torch"}))
    presence = ModelPresence(source="package://x", present=True)
    bare = inventory(node("a", cpu("a", 4, 32), models=(presence,)))
    assert "model_missing" in {r.constraint for r in refused(bare, shipped)}
    prepared = replace(presence, forms=(GGUF, SAFETENSORS))
    assert solved(inventory(node("a", cpu("a", 4, 32), models=(prepared,))), shipped).slots


def test_nodes_with_other_forms_of_a_demanded_model_are_another_pool() -> None:
    there = processors(a=(GGUF,), b=(ONNX_INT4,), c=(GGUF,))

    def pools(*asked: Demand) -> list[list[str]]:
        found = collapse(asked, there, node_rejections(asked, there))
        return sorted(sorted(pool.nodes) for pool in found)

    assert pools(small()) == [["a", "c"], ["b"]]
    elsewhere = replace(small(), model=replace(small().model, source="hf://o/n", tokenizer=SOURCE))
    assert len(pools(elsewhere)) == 1, "forms of what nobody asks for tell nothing apart"
    plan = solved(there, small(engines=frozenset({"onnxruntime"})))
    assert [s.nodes for s in plan.slots] == [("b",)]


def test_emulated_devices_read_no_files() -> None:
    there = inventory(
        node("a", devices("a", "NVIDIA_L4_24G", emulated=True), models=has(GGUF)),
        node("b", devices("b", "NVIDIA_L4_24G", emulated=True), models=has(SAFETENSORS)),
    )
    assert len(collapse((small(),), there, ())) == 1
    assert [s.engine for s in solved(there, small()).slots] == ["emulated"]


def test_the_dtype_of_a_prepared_form_is_what_runs() -> None:
    ort = frozenset({"onnxruntime"})
    both = processors(a=(ONNX_FP32, ONNX_INT4))
    assert solved(processors(a=(ONNX_INT4,)), small(engines=ort)).slots[0].dtype == "int4"
    assert solved(processors(a=(ONNX_FP32,)), small(engines=ort)).slots[0].dtype == "fp32"
    assert solved(both, small(engines=ort)).slots[0].dtype == "int4", "the faster one"
    assert solved(both, small(engines=ort, dtype="fp32")).slots[0].dtype == "fp32"
    assert solved(both, small(engines=ort, arithmetic="exact")).slots[0].dtype == "fp32"
    (why,) = {
        r.hint
        for r in refused(processors(a=(ONNX_INT4,)), small(engines=ort, dtype="fp32"))
        if r.constraint == "precision"
    }
    assert why == f"shardyard prepare {SOURCE} --form onnx --dtype fp32"
    undecided = processors(a=(ModelForm(format="onnx"), ONNX_INT4))
    assert solved(undecided, small(engines=ort)).slots[0].dtype == "fp16", "as without forms"


def test_the_verifier_refuses_forms_that_are_not_there() -> None:
    ort = frozenset({"onnxruntime"})
    asked, there = small(engines=ort), processors(a=(ONNX_INT4,))
    plan = solved(there, asked)
    for forms, says in (
        ((GGUF,), f"onnxruntime reads no form of {SOURCE} on a"),
        ((ONNX_FP32,), f"{SOURCE} is not prepared in int4 on a"),
    ):
        changed = Problem(inventory=processors(a=forms), app=app(asked))
        assert f"m/r0: {says}" in verify(changed, plan)


# -- exact arithmetic ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onnxruntime", "torch", "vllm"])
def test_exact_arithmetic_of_engines_that_convert_is_fp32(name: str) -> None:
    gpu = inventory(node("a", devices("a", "NVIDIA_L4_24G")))
    asked = demand("m", SMOLLM2, context=512, concurrency=1, engines=frozenset({name}))
    assert solved(gpu, replace(asked, arithmetic="exact")).slots[0].dtype == "fp32"
    assert solved(gpu, asked).slots[0].dtype in ("bf16", "fp16")
    half = replace(asked, arithmetic="exact", dtype="fp16")
    assert "precision" in {r.constraint for r in refused(gpu, half)}
    plan = solved(gpu, replace(asked, dtype="fp16"))
    found = verify(Problem(inventory=gpu, app=app(half)), plan)
    assert f"m/r0: {name} is not exact in fp16" in found


def test_stored_weights_stay_as_they_are_even_when_exact() -> None:
    asked = small(engines=frozenset({"openvino"}), arithmetic="exact")
    assert solved(processors(a=()), asked).slots[0].dtype == "int4"


def test_chains_over_several_classes_keep_to_exact_dtypes() -> None:
    big = demand("m", LLAMA_8B, context=512, concurrency=1, arithmetic="exact")
    two = inventory(
        node("a", devices("a", "NVIDIA_L4_24G", 1)),
        node("b", devices("b", "NVIDIA_A10_24G", 1)),
    )
    plan = solved(two, replace(big, engines=frozenset({"vllm"})))
    assert [(s.dtype, s.pp) for s in plan.slots] == [("fp32", 2)]


# -- preference and other people's engines ---------------------------------------------------------------------------


def test_the_order_of_preference_on_processors() -> None:
    names = [e.name for e in engines_for(catalog()["CPU_AVX512"], emulated=False)]
    assert names == ["openvino", "onnxruntime", "llamacpp", "torch", "vllm"]
    assert next(e.name for e in engines_for(catalog()["NVIDIA_L4_24G"], emulated=False)) == "vllm"


def test_where_an_engine_yields_it_runs_on_one_device() -> None:
    last = engines_for(catalog()["CPU"], emulated=False)[-1]
    assert (last.name, last.tp, last.pp, last.chain) == ("vllm", (1,), 1, 0)
    assert engines()["vllm"].pp > 1


def test_an_engine_of_somebody_else_is_planned_as_it_says() -> None:
    there = inventory(node("a", devices("a", "SAMSUNG_HBM_PIM", memory_bytes=4 << 30)))
    asked = demand("m", SMOLLM2, context=512, concurrency=1)
    assert "no known engine" in refused(there, asked)[0].reason
    plan = solved(replace(there, engines=(THEIRS,)), asked)
    assert [(s.engine, s.dtype) for s in plan.slots] == [("theirs", "fp16")]
    assert verify(Problem(inventory=there, app=app(asked)), plan)


def test_an_engine_of_somebody_else_comes_after_ours_and_cannot_take_a_name() -> None:
    own = engines_for(catalog()["CPU"], emulated=False, extra=(THEIRS,))
    assert [e.name for e in own][-2:] == ["vllm", "theirs"]
    thief = replace(THEIRS, name="openvino", yields=frozenset())
    assert engines_for(catalog()["CPU"], emulated=False, extra=(thief,)) == engines_for(
        catalog()["CPU"], emulated=False
    )
    assert layout_engine(catalog()["SAMSUNG_HBM_PIM"], (THEIRS,)) == THEIRS
    (stand_in,) = engines_for(catalog()["SAMSUNG_HBM_PIM"], emulated=True, extra=(THEIRS,))
    assert (stand_in.name, stand_in.dtypes) == ("emulated", ("fp16",))


@pytest.mark.parametrize(
    "wrong",
    [
        replace(THEIRS, tp=()),
        replace(THEIRS, tp=(0,)),
        replace(THEIRS, pp=0),
        replace(THEIRS, dtypes=()),
        replace(THEIRS, drives=frozenset()),
        replace(THEIRS, start_s=float("nan")),
        replace(THEIRS, overhead_bytes=-1),
        replace(THEIRS, tp=tuple(range(1, 10**6))),
        replace(THEIRS, tp=(2**70,)),
        replace(THEIRS, pp=10**9),
        replace(THEIRS, chain=10**9),
        replace(THEIRS, build_s=1e308),
        replace(THEIRS, overhead_bytes=2**63),
        replace(THEIRS, dtypes=("fp16",) * 10**6),
        replace(THEIRS, formats=frozenset({"x" * 10_000_000})),
        replace(THEIRS, drives=frozenset({"cpu/cpu\n"})),
        replace(THEIRS, drives=frozenset(f"v{n}/gpu" for n in range(1000))),
    ],
    ids=map(str, range(17)),
)
def test_facts_that_would_break_every_plan_are_refused(wrong: EngineFacts) -> None:
    assert flaw(wrong)
    there = replace(processors(a=()), engines=(wrong,))
    with pytest.raises(SpecError, match="theirs"):
        solve(Problem(inventory=there, app=app(small())))
    assert flaw(THEIRS) == ""


def test_facts_travel_as_json_and_as_rows() -> None:
    there = replace(processors(a=(ONNX_INT4, GGUF)), engines=(THEIRS,))
    assert decode(Inventory, encode(there)) == there
    for facts in (*engines().values(), THEIRS):
        assert engine_of(facts.name, row_of(facts)) == facts


# -- capabilities ----------------------------------------------------------------------------------------------------


def test_engines_offer_only_what_can_be_required() -> None:
    for facts in engines().values():
        assert facts.offers <= set(CAPABILITIES)
        assert set(facts.exact_dtypes) <= set(facts.dtypes)


def test_exact_arithmetic_can_be_one_kind_of_devices_alone() -> None:
    card = node("g", *devices("g", "INTEL_ARC_B580_12G", 1), models=has(GGUF))
    both = inventory(card, node("a", cpu("a", 4, 32), models=has(GGUF)))
    openvino = frozenset({"openvino"})
    for arithmetic, place in (("fast", "g"), ("exact", "a")):
        slots = solved(both, small(arithmetic=arithmetic, engines=openvino)).slots
        assert {n for slot in slots for n in slot.nodes} == {place}
    found = refused(inventory(card), small(arithmetic="exact", engines=openvino))
    reasons = {r.engine: (r.reason, r.hint) for r in found if r.constraint == "backend"}
    assert reasons["openvino"] == (
        "openvino has no exact arithmetic on INTEL_ARC_B580_12G",
        "set models.m.arithmetic to fast",
    )


def test_a_plan_of_exact_arithmetic_where_there_is_none_does_not_hold() -> None:
    there = inventory(node("g", *devices("g", "INTEL_ARC_B580_12G", 1), models=has(GGUF)))
    asked = small(engines=frozenset({"openvino"}))
    plan = solved(there, asked)
    exact = Problem(inventory=there, app=app(replace(asked, arithmetic="exact")))
    assert any("no exact arithmetic" in str(fault) for fault in verify(exact, plan))


def test_a_model_goes_where_its_requirements_are_offered() -> None:
    there = processors(a=())
    assert solved(there, small(requires=frozenset({"lora"}))).slots[0].engine == "vllm"
    asked = small(requires=frozenset({"logprobs"}))
    found = refused(there, asked)
    reasons = {r.engine: r.reason for r in found if r.constraint == "capability"}
    assert reasons["torch"] == "torch lacks logprobs; it offers ids, penalties, seed"
    plan = solved(replace(there, engines=(THEIRS,)), asked)
    assert plan.slots[0].engine == "theirs"


def test_a_requirement_that_nothing_offers_is_told_with_the_change_that_helps() -> None:
    result = solve(
        Problem(inventory=processors(a=()), app=app(small(requires=frozenset({"logprobs"}))))
    )
    assert isinstance(result, Infeasible)
    assert ("models.m.requires", None) in [change for fix in result.fixes for change in fix.change]


def test_emulated_devices_satisfy_what_the_emulated_engine_offers() -> None:
    lab = inventory(node("a", devices("a", "NVIDIA_L4_24G", emulated=True)))
    asked = demand("m", SMOLLM2, context=512, concurrency=1)
    assert solved(lab, replace(asked, requires=frozenset({"seed"}))).slots
    schema = replace(asked, requires=frozenset({"json_schema"}))
    assert "capability" in {r.constraint for r in refused(lab, schema)}
    plan = solved(lab, asked)
    found = verify(Problem(inventory=lab, app=app(schema)), plan)
    assert found == ("m/r0: emulated does not offer json_schema",)


# -- endpoints -------------------------------------------------------------------------------------------------------


def test_what_an_endpoint_serves_needs_neither_weights_nor_a_tokenizer_here() -> None:
    from orchestrator.inventory_file import parse_inventory

    text = (
        "nodes:\n  out:\n    models: []\n    devices: [{class: API, endpoint: {url: 'openai+https://api.example.com/v1',"
        " concurrency: 8, tokens_per_s: 50, ttft_ms: 400}}]\n"
    )
    asked = demand("m", None, source="openai+https://api.example.com/v1/gpt", concurrency=2)
    assert solved(parse_inventory(text, "x"), asked).slots[0].engine == "remote"
