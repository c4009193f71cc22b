"""`shardyard plan --what-if`: its grammar, its document, its tables, and each bad input with one clear sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import main
from orchestrator.what_if import KeyChange, changed_app, parse_what_if
from placement.errors import SpecError
from placement.what_if import (
    AddDevices,
    AddNode,
    InventoryChange,
    RemoveDevice,
    RemoveDevices,
    RemoveNode,
    RemoveRack,
)

INVENTORY = """
nodes:
  gpu-1: {rack: r1, devices: [{class: NVIDIA_L4_24G, count: 2}]}
  gpu-2: {rack: r2, devices: [{class: NVIDIA_L4_24G, count: 1}]}
"""
SPEC = """
models:
  llama-3.1:
    source: file:///models/llama
    facts: {parameters: 8.03e9, layers: 32, hidden: 4096, heads: 32, kv_heads: 8, head_dim: 128, ffn: 14336,
            vocab: 128256, window: 8192, architecture: llama}
    replicas: 2
    context: 1024
    concurrency: 1
    dtype: fp8
"""


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    """`shardyard plan` on the small inventory above."""
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    (tmp_path / "app.yaml").write_text(SPEC)

    def call(*args: str) -> Result:
        words = [
            "plan",
            "--inventory",
            str(tmp_path / "inventory.yaml"),
            str(tmp_path / "app.yaml"),
        ]
        return CliRunner().invoke(main, [*words, *args], env={"NO_COLOR": "1"})

    return call


def compared(plan: Any, *changes: str, exit_code: int = 0) -> dict[str, Any]:
    words = [word for change in changes for word in ("--what-if", change)]
    done = plan(*words, "-o", "json")
    assert done.exit_code == exit_code, done.stderr
    return json.loads(done.stdout)


# -- grammar --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("+2 A@n", AddDevices(node="n", device_class="A", count=2)),
        (" + 2  A @ n ", AddDevices(node="n", device_class="A", count=2)),
        ("-1 A@n.x", RemoveDevices(node="n.x", device_class="A", count=1)),
        ("-device n/3", RemoveDevice(device="n/3")),
        ("-node n7", RemoveNode(node="n7")),
        ("-rack r1", RemoveRack(rack="r1")),
        ("+node n: 8 A", AddNode(node="n", parts=(("A", 8),))),
        ("+node n@r: 8 A, 1 B", AddNode(node="n", rack="r", parts=(("A", 8), ("B", 1)))),
        ("+3 node n: 8 A", AddNode(node="n", count=3, parts=(("A", 8),))),
    ],
)
def test_changes_of_the_inventory_are_read_and_written(text: str, change: InventoryChange) -> None:
    assert parse_what_if(text) == change
    assert parse_what_if(str(change)) == change


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("models.m.replicas=4", "models.m.replicas", 4),
        ("models.m.constraints.pin = {node: [a]}", "models.m.constraints.pin", {"node": ["a"]}),
        ("policy=cost", "policy", "cost"),
        ("budgets.power_watts.cluster=null", "budgets.power_watts.cluster", None),
        ("budgets.power_watts.cluster=", "budgets.power_watts.cluster", None),
    ],
)
def test_changes_of_the_spec_are_read(text: str, key: str, value: Any) -> None:
    change = parse_what_if(text)
    assert isinstance(change, KeyChange)
    assert (change.key, change.value) == (key, value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rubbish", "is no change"),
        ("", "is no change"),
        ("=3", "is no change"),
        ("+2 A", "is no change"),
        ("-noode n", "is no change"),
        ("+0 A@n", "changes nothing"),
        ("+node n: eight A", "eight A is no number of devices"),
        ("+node n: 8 A,", "nothing is no number of devices"),
        ("+99999 node n: 1 A", "too many"),
        ("models.m.replicas={", "is no YAML value"),
    ],
)
def test_what_is_no_change_is_refused_with_an_example(text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_what_if(text)
    assert says in caught.value.message
    assert text in caught.value.message
    assert caught.value.hint


def test_keys_reach_below_names_with_dots_and_short_forms() -> None:
    def after(*texts: str) -> Any:
        changes = [parse_what_if(text) for text in texts]
        return changed_app(SPEC, "app.yaml", [c for c in changes if isinstance(c, KeyChange)])

    assert after("models.llama-3.1.context=2048").demands[0].context == 2048
    lowered = after("models.llama-3.1.replicas.min=1").demands[0]
    assert (lowered.replicas_min, lowered.replicas_max) == (1, 2)
    assert after("policy.weights.cost=1").policy.cost == 1
    assert after("models.llama-3.1.dtype=null").demands[0].dtype is None
    both = after("tenants.t={}", "models.llama-3.1.tenant=t")
    assert both.demands[0].tenant == "t"


# -- documents and tables -------------------------------------------------------------------------------------------


def test_the_document_has_both_plans_and_the_difference(plan: Any) -> None:
    document = compared(plan, "models.llama-3.1.replicas=3")
    assert set(document) == {"before", "after", "changes", "difference", "diff"}
    assert document["changes"] == ["models.llama-3.1.replicas=3"]
    difference = document["difference"]
    assert difference["replicas"] == {"before": 2, "after": 3, "change": 1}
    assert difference["gained"] == ["llama-3.1"]
    assert difference["watts"]["change"] > 0
    assert difference["joules_per_token"]["before"] > 0
    assert difference["models"][0]["tokens_per_s"]["after"] > 0
    assert difference["feasible"] == {"before": True, "after": True}
    assert [c["slot"] for c in document["diff"] if c["kind"] == "start"] == ["llama-3.1/r2"]


def test_a_lost_node_says_what_moves_and_why(plan: Any) -> None:
    document = compared(plan, "-node gpu-1", "+1 NVIDIA_L4_24G@gpu-2")
    moved = [c for c in document["diff"] if c["kind"] == "move"]
    assert moved
    assert all("node gpu-1 is gone" in c["reason"] for c in moved)
    done = plan("--what-if", "-node gpu-1", "--what-if", "+1 NVIDIA_L4_24G@gpu-2")
    assert "node gpu-1 is gone" in done.stdout
    assert "tokens/s" in done.stdout


def test_an_infeasible_change_exits_3_with_conflict_and_fixes(plan: Any) -> None:
    document = compared(plan, "-node gpu-1", exit_code=3)
    assert document["before"]["feasible"]
    assert document["after"]["conflict"] == ["llama-3.1"]
    assert document["after"]["fixes"]
    assert document["diff"] == []
    assert document["difference"]["replicas"] == {"before": 2, "after": 0, "change": -2}
    for fix in document["after"]["fixes"]:
        keys = [f"{key}={json.dumps(value)}" for key, value in fix["change"].items()]
        assert compared(plan, "-node gpu-1", *keys)["after"]["feasible"], fix
    done = plan("--what-if", "-node gpu-1")
    assert done.exit_code == 3
    assert "would help" in done.stdout


def test_a_change_that_makes_it_feasible_says_so(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(SPEC.replace("replicas: 2", "replicas: 4"))
    alone = plan("-o", "json")
    assert alone.exit_code == 3
    offered = json.loads(alone.stdout)["additions"]
    assert offered
    done = plan("--what-if", offered[0]["what_if"])
    assert done.exit_code == 0
    assert "feasible; without it llama-3.1 cannot be placed" in done.stdout
    document = compared(plan, offered[0]["what_if"])
    assert document["difference"]["feasible"] == {"before": False, "after": True}
    assert document["difference"]["value"]["before"] is None


def test_worth_under_another_policy_is_not_compared(plan: Any) -> None:
    assert "worth" in plan("--what-if", "-device gpu-2/0").stdout
    assert "worth" not in plan("--what-if", "policy=cost").stdout


def test_without_what_if_the_output_is_one_plan(plan: Any) -> None:
    document = json.loads(plan("-o", "json").stdout)
    assert "difference" not in document
    assert document["slots"]


@pytest.mark.parametrize(
    ("change", "says", "hint"),
    [
        ("-node gup-1", "no node is called gup-1", "gpu-1"),
        ("+1 NVIDIA_L4@gpu-1", "no device class NVIDIA_L4", "NVIDIA_L4_24G"),
        ("models.llama.replicas=3", "no model is called llama", "llama-3.1"),
        ("models.llama-3.1.replcas=3", "models.llama-3.1.replcas: unknown key", "replicas"),
        ("models.llama-3.1.replicas=-1", "greater than or equal to 0", ""),
        ("models.llama-3.1.context.x=1", "holds 1024", "models.llama-3.1.context=VALUE"),
        ("models.llama-3.1=null", "models", ""),
        ("polcy=cost", "polcy: unknown key", "policy"),
    ],
)
def test_a_wrong_change_exits_2_with_one_sentence(
    plan: Any, change: str, says: str, hint: str
) -> None:
    done = plan("--what-if", change)
    assert done.exit_code == 2
    assert says in done.stderr
    assert change in done.stderr
    assert hint in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_what_if_needs_an_inventory(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "app.yaml"), "--what-if", "-node n"])
    assert done.exit_code == 2
    assert "--inventory" in done.stderr
