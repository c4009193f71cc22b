"""Options of `plan` and `explain` on files: measurements, a deadline, warnings about what was assumed, pipelines by depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.labs import LLAMA_8B

from orchestrator.calibrations import dump
from orchestrator.cli import main
from orchestrator.schema import PlanDocument
from placement.calibration import Calibration

MODEL = """
  {name}:
    source: file:///models/{name}
    facts: {{parameters: {parameters}, layers: {layers}, hidden: {hidden}, heads: {heads}, kv_heads: 8, head_dim: 128,
             ffn: 14336, vocab: 128256, window: 8192, architecture: llama}}
    context: 1024
    concurrency: 4
    dtype: {dtype}
"""
SMALL = MODEL.format(
    name="small", parameters=8.03e9, layers=32, hidden=4096, heads=32, dtype="bf16"
)
BIG = MODEL.format(name="big", parameters=70.6e9, layers=80, hidden=8192, heads=64, dtype="fp16")
INVENTORY = """
nodes:
  a: {devices: [{class: NVIDIA_L4_24G, count: 4}]}
  b: {devices: [{class: NVIDIA_L4_24G, count: 4}]}
  c: {devices: [{class: NVIDIA_T4_16G, count: 8}]}
"""
MEASURED = Calibration(
    device_class="NVIDIA_L4_24G",
    engine="vllm",
    model="small",
    facts=LLAMA_8B,
    dtype="bf16",
    prompt_tokens=512,
    context=600,
    sequences=4,
    prefill_tokens_per_s=500.0,
    token_s_fixed=0.4,
    token_s_per_sequence=0.01,
    uncertainty=0.07,
    source="by hand",
    measured="2026-01-02",
)


@pytest.fixture
def shardyard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, in a folder with a small spec, a big one, an inventory and a measurement."""
    monkeypatch.chdir(tmp_path)
    pinned = SMALL + "    constraints: {pin: {node: [aa, a, b, c]}}\n"
    for name, models in (("small", SMALL), ("big", BIG), ("pinned", pinned)):
        (tmp_path / f"{name}.yaml").write_text(f"models:{models}")
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    (tmp_path / "measured.yaml").write_text(dump([MEASURED]))

    def call(*args: str) -> Result:
        return CliRunner().invoke(main, list(args), env={"NO_COLOR": "1"})

    return call


def planned(shardyard: Any, *args: str) -> dict[str, Any]:
    done = shardyard("plan", "--inventory", "inventory.yaml", *args, "-o", "json")
    assert done.exit_code == 0, done.stderr
    PlanDocument.model_validate_json(done.stdout)
    return json.loads(done.stdout)


# -- measurements ---------------------------------------------------------------------------------------------------


def test_measurements_change_what_is_expected(shardyard: Any, tmp_path: Path) -> None:
    plain = planned(shardyard, "small.yaml")["slots"][0]["predicted"]
    measured = planned(shardyard, "small.yaml", "--calibrations", "measured.yaml")
    (tmp_path / "folder").mkdir()
    (tmp_path / "measured.yaml").rename(tmp_path / "folder" / "measured.yaml")
    again = planned(shardyard, "small.yaml", "--calibrations", "folder")
    assert again["slots"] == measured["slots"]
    expected = measured["slots"][0]["predicted"]
    assert expected != plain
    said = shardyard(
        "explain", "small", "--inventory", "inventory.yaml", "small.yaml", "--calibrations",
        "folder",
    )  # fmt: skip
    assert f"first token {expected['ttft_ms']:.0f} ms" in said.stdout


def test_measurements_that_are_not_there_are_a_usage_error(shardyard: Any) -> None:
    done = shardyard(
        "plan", "--inventory", "inventory.yaml", "small.yaml", "--calibrations", "absent.yaml"
    )
    assert done.exit_code == 2
    assert "absent.yaml" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("plan", "small.yaml", "--calibrations", "measured.yaml"),
        ("plan", "small.yaml", "--deadline", "1"),
        ("explain", "small", "--calibrations", "measured.yaml"),
    ],
)
def test_what_a_cluster_does_not_take_needs_an_inventory(
    shardyard: Any, args: tuple[str, ...]
) -> None:
    done = shardyard(*args)
    assert done.exit_code == 2
    assert f"{args[-2]} needs --inventory" in done.stderr
    assert "shardyard devices -o yaml" in done.stderr


# -- deadline -------------------------------------------------------------------------------------------------------


def test_at_the_deadline_the_best_plan_comes_back_without_a_claim_that_is_too_high(
    shardyard: Any,
) -> None:
    whole = planned(shardyard, "small.yaml")
    cut = planned(shardyard, "small.yaml", "--deadline", "0")
    assert cut["slots"]
    assert cut["bound"] >= whole["value"] - 1e-9
    assert planned(shardyard, "small.yaml", "--deadline", "60")["value"] == whole["value"]


@pytest.mark.parametrize("seconds", ["nan", "-1", "soon"])
def test_a_deadline_is_a_number_of_seconds(shardyard: Any, seconds: str) -> None:
    done = shardyard("plan", "--inventory", "inventory.yaml", "small.yaml", "--deadline", seconds)
    assert done.exit_code == 2


def test_a_deadline_holds_for_what_if_too(shardyard: Any) -> None:
    done = shardyard(
        "plan", "--inventory", "inventory.yaml", "small.yaml", "--deadline", "60",
        "--what-if", "-node a", "-o", "json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["after"]["feasible"]


# -- warnings -------------------------------------------------------------------------------------------------------

NOTE = "models.small.constraints.pin: no node is called aa; did you mean a?"


def test_plan_and_explain_warn_on_standard_error_alone(shardyard: Any) -> None:
    for words in (
        ("plan", "--inventory", "inventory.yaml", "pinned.yaml"),
        ("explain", "--inventory", "inventory.yaml", "pinned.yaml"),
        ("plan", "--inventory", "inventory.yaml", "pinned.yaml", "--what-if", "-device c/7"),
    ):
        done = shardyard(*words)
        assert done.exit_code == 0, done.stderr
        assert done.stderr == f"warning: {NOTE}\n"
        assert NOTE not in done.stdout
        as_json = shardyard(*words, "-o", "json")
        assert json.loads(as_json.stderr) == {"warning": NOTE}
        assert json.loads(as_json.stdout)


def test_verify_warns_too(shardyard: Any, tmp_path: Path) -> None:
    document = planned(shardyard, "pinned.yaml")
    (tmp_path / "plan.json").write_text(json.dumps(document))
    done = shardyard("verify", "plan.json", "--inventory", "inventory.yaml", "pinned.yaml")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert done.stderr == f"warning: {NOTE}\n"


# -- pipelines ------------------------------------------------------------------------------------------------------


def test_a_model_in_stages_is_shown_by_depth(shardyard: Any) -> None:
    document = planned(shardyard, "big.yaml")
    assert document["slots"][0]["pp"] > 1
    points = document["fronts"]["big"]
    assert [p["stages"] for p in points] == sorted(p["stages"] for p in points)
    (chosen,) = [p for p in points if p["chosen"]]
    said = shardyard("explain", "big", "--inventory", "inventory.yaml", "big.yaml").stdout
    assert "Pipelines of big by depth" in said
    assert f"{chosen['stages']} stages: flow {chosen['flow_tokens_per_s']:.1f} tokens/s" in said
    assert planned(shardyard, "small.yaml")["fronts"] == {}


def test_a_plan_with_fronts_is_verified_like_any_other(shardyard: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(planned(shardyard, "big.yaml")))
    done = shardyard("verify", "plan.json", "--inventory", "inventory.yaml", "big.yaml")
    assert done.exit_code == 0, done.stdout + done.stderr
