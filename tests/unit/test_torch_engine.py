"""What of the torch engine is decided without torch: device, dtype, wishes; and which schemas a grammar compiler is given."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support.engines import engine_config

from actors.engines.torch import TorchStepper, check_window, device_of, dtype_of, refuse_wishes
from actors.errors import LoadFailed
from actors.grammar_schema import MOST_DEPTH, unsupported
from placement.tuning import Tuning


def test_its_module_imports_nothing_heavy() -> None:
    code = (
        "import sys, actors.engines.torch; "
        "print({'torch', 'numpy', 'transformers', 'structlog', 'ray'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("family", "device"), [("", "cpu"), ("cpu", "cpu"), ("nvidia", "cuda"), ("amd", "cuda")]
)
def test_a_family_is_a_device_of_torch(family: str, device: str) -> None:
    assert device_of(engine_config(family=family)) == device


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"family": "rebellions"}, "does not drive devices of family rebellions"),
        ({"family": "nvidia", "tp": 2}, "runs on one device, planned are 2"),
    ],
)
def test_other_devices_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(LoadFailed, match=says):
        device_of(engine_config(**changes))


@pytest.mark.parametrize(
    ("arithmetic", "dtype", "found"),
    [
        ("exact", None, "float32"),
        ("exact", "fp32", "float32"),
        ("fast", None, "auto"),
        ("fast", "bf16", "bfloat16"),
        ("fast", "fp16", "float16"),
    ],
)
def test_the_planned_dtype(arithmetic: str, dtype: str | None, found: str) -> None:
    assert dtype_of(engine_config(arithmetic=arithmetic, dtype=dtype)) == found


@pytest.mark.parametrize(
    ("arithmetic", "dtype", "says"),
    [("fast", "int4", "compute in int4"), ("exact", "bf16", "compute exactly in bf16")],
)
def test_a_dtype_that_it_does_not_compute_is_refused(
    arithmetic: str, dtype: str, says: str
) -> None:
    with pytest.raises(LoadFailed, match=says):
        dtype_of(engine_config(arithmetic=arithmetic, dtype=dtype))


@pytest.mark.parametrize(
    ("tuning", "says"),
    [
        (Tuning(quantization="awq"), "quantise weights"),
        (Tuning(kv_dtype="fp8"), "KV cache in another dtype"),
        (Tuning(lora=(("a", "/a"),)), "load adapters"),
    ],
)
def test_wishes_that_it_cannot_meet_are_refused(tuning: Tuning, says: str) -> None:
    with pytest.raises(LoadFailed, match=says):
        refuse_wishes(engine_config(tuning=tuning))
    refuse_wishes(engine_config(tuning=Tuning(attention_backend="eager")))


def test_a_window_beyond_what_the_model_sees_is_refused() -> None:
    check_window(engine_config(window=512), SimpleNamespace(max_position_embeddings=512))
    sliding = SimpleNamespace(max_position_embeddings=4096, sliding_window=256)
    with pytest.raises(LoadFailed, match="512 tokens is larger than the model's 256"):
        check_window(engine_config(window=512), sliding)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_path": "/no/such/folder"}, "no folder of a model"),
        ({"model_path": "", "family": "furiosa"}, "does not drive"),
    ],
)
def test_a_load_is_refused_before_torch_is_needed(config: dict[str, object], says: str) -> None:
    with pytest.raises(LoadFailed, match=says):
        TorchStepper().load(engine_config(**config), lambda _: None)


def test_an_engine_that_is_not_loaded_has_nothing_to_do() -> None:
    stepper = TorchStepper()
    stepper.abort(1)
    assert not stepper.busy()
    assert stepper.stats().running == 0


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["string", "null"]},
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/x"}},
            "$defs": {"x": {"type": "null"}},
        },
        {"anyOf": [{"type": "integer"}, {"const": 3}, {"enum": ["a", None]}]},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
        {"type": "object", "additionalProperties": False, "title": "T", "description": "d"},
        {"type": "object", "additionalProperties": {"type": "integer"}},
    ],
)
def test_a_plain_schema_is_given_to_the_compiler(schema: object) -> None:
    assert unsupported(json.dumps(schema)) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"type": "nonsense"}', "type 'nonsense'"),
        ('{"type": 3}', "type '3'"),
        ('{"properties": {"a": {"$ref": "#/nope"}}}', "leads nowhere"),
        ('{"$ref": "#/$defs/x", "$defs": {}}', "leads nowhere"),
        ('{"$ref": 7}', "leads nowhere"),
        ('{"type": "string", "pattern": "(("}', "'pattern'"),
        ('{"properties": {"a": false}, "required": ["a"]}', "where a schema must be"),
        ('{"items": false, "minItems": 1}', "where a schema must be"),
        ('{"properties": []}', "properties that is no object"),
        (
            json.dumps({"properties": {f"p{n}": True for n in range(101)}}),
            "more than 100 properties",
        ),
        ('{"anyOf": []}', "anyOf"),
        ('{"enum": []}', "enum"),
        ('{"required": ["a"], "properties": {}}', "no properties"),
        ('{"type": "string", "minLength": 9, "maxLength": 3}', "minLength above maxLength"),
        ('{"type": "array", "maxItems": 100000}', "maxItems 100000"),
        (json.dumps({"title": "x" * 70_000}), "longer than"),
        ('{"items":' * 40 + "{}" + "}" * 40, f"more than {MOST_DEPTH} levels"),
        ("[" * 30_000, "not JSON"),
    ],
)
def test_a_schema_that_could_end_the_compiler_is_refused(text: str, says: str) -> None:
    assert says in unsupported(text)
