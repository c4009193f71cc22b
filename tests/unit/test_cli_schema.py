"""The printed JSON Schemas accept our examples, refuse unknown keys, and the plan that is printed keeps to its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from orchestrator.cli import main
from orchestrator.schema import PlanDocument, json_schema

EXAMPLES = Path(__file__).parents[2] / "examples"


def errors(kind: str, document: Any) -> list[str]:
    found = Draft202012Validator(json_schema(kind)).iter_errors(document)
    return [error.message for error in found]


@pytest.mark.parametrize("name", ["quickstart/app.yaml"])
def test_example_specs_keep_to_the_schema(name: str) -> None:
    assert errors("app", yaml.safe_load((EXAMPLES / name).read_text())) == []


@pytest.mark.parametrize("name", ["mixed-lab/lab.yaml", "mixed-lab/inventory.yaml"])
def test_example_inventories_keep_to_the_schema(name: str) -> None:
    assert errors("inventory", yaml.safe_load((EXAMPLES / name).read_text())) == []


def test_short_forms_are_allowed_and_unknown_keys_are_not() -> None:
    model = {"source": "package://p", "replicas": 2}
    assert errors("app", {"policy": "latency", "models": {"m": model}}) == []
    assert errors("app", {"models": {"m": model | {"replcas": 2}}})
    node = {"devices": [{"class": "CARD", "emulated": True}]}
    assert errors("inventory", {"nodes": {"n": node}}) == []
    assert errors("inventory", {"nodes": {"n": {"devices": [{"class": "CARD", "cuont": 1}]}}})


def test_the_printed_plan_keeps_to_its_schema() -> None:
    lab, app = EXAMPLES / "mixed-lab" / "lab.yaml", EXAMPLES / "mixed-lab" / "app.yaml"
    for policy in ("balanced", "impossible"):
        text = app.read_text()
        if policy == "impossible":
            text = text.replace("134.5e6", "405e9").replace("layers: 30", "layers: 126")
        args = ["plan", "--inventory", str(lab), "-", "-o", "json"]
        printed = CliRunner().invoke(main, args, input=text).stdout
        assert errors("plan", json.loads(printed)) == []
        PlanDocument.model_validate_json(printed)
