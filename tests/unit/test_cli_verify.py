"""`shardyard verify`: what it reads, prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.claims import printed

from orchestrator.cli import main
from orchestrator.inventory_file import load_inventory
from orchestrator.offline import with_local_facts
from orchestrator.spec import load_app
from placement import Plan, Problem, solve

SPEC = """
name: two
policy: throughput
models:
  big:
    source: file:///models/big
    facts: {parameters: 8.03e9, layers: 32, hidden: 4096, heads: 32, kv_heads: 8, head_dim: 128, ffn: 14336,
            vocab: 128256, window: 8192, architecture: llama}
    replicas: {min: 1, max: 3}
    constraints: {spread: node}
  v1.5:
    source: file:///models/small
    facts: {parameters: 1.2e9, layers: 16, hidden: 2048, heads: 32, kv_heads: 8, head_dim: 64, ffn: 8192,
            vocab: 128256, window: 8192, architecture: llama}
    replicas: 2
budgets:
  power_watts: {cluster: 1500}
"""
INVENTORY = """
generation: 7
nodes:
  a: {rack: r1, devices: [{class: NVIDIA_A100_80G, count: 2}]}
  b: {rack: r2, cpu: {cores: 8, memory_gib: 64}, devices: [{class: NVIDIA_L4_24G, count: 2}]}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """A plan, its inventory and its spec."""
    plan, inventory, spec = (tmp_path / name for name in ("plan.json", "inv.yaml", "app.yaml"))
    inventory.write_text(INVENTORY)
    spec.write_text(SPEC)
    problem = Problem(inventory=load_inventory(inventory), app=with_local_facts(load_app(spec)))
    result = solve(problem)
    assert isinstance(result, Plan)
    plan.write_text(json.dumps(printed(result), indent=2))
    return str(plan), str(inventory), str(spec)


def call(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["verify", *args], env={"NO_COLOR": "1"}, input=stdin)


def changed(path: str, change: Any) -> None:
    document = json.loads(Path(path).read_text())
    change(document)
    Path(path).write_text(json.dumps(document))


def test_a_good_plan_prints_what_was_derived(files: tuple[str, str, str]) -> None:
    plan, inventory, spec = files
    done = call(plan, "--inventory", inventory, spec)
    assert done.exit_code == 0, done.stdout + done.stderr
    for word in ("the plan holds", "value", "bound", "gap", "proof"):
        assert word in done.stdout
    as_json = call(plan, "--inventory", inventory, spec, "-o", "json")
    found = json.loads(as_json.stdout)
    said = json.loads(Path(plan).read_text())
    assert found["holds"] is True
    assert found["faults"] == []
    assert found["generation"] == 7
    for key in ("value", "bound", "dual_bound", "gap"):
        assert found[key] == pytest.approx(said[key], rel=1e-6, abs=1e-9)
    assert found["proof"] == said["proof"]


def test_each_of_the_three_files_can_be_standard_input(files: tuple[str, str, str]) -> None:
    plan, inventory, spec = files
    for args, path in (
        (("-", "--inventory", inventory, spec), plan),
        ((plan, "--inventory", "-", spec), inventory),
        ((plan, "--inventory", inventory, "-"), spec),
    ):
        assert call(*args, stdin=Path(path).read_text()).exit_code == 0
    twice = call("-", "--inventory", "-", spec, stdin="{}")
    assert twice.exit_code == 2


def test_tampered_plans_are_refused_with_the_first_fault(files: tuple[str, str, str]) -> None:
    plan, inventory, spec = files
    changed(plan, lambda d: d.update(value=d["value"] * 1.5))
    done = call(plan, "--inventory", inventory, spec)
    assert done.exit_code == 3
    assert done.stdout.startswith("refused: ")
    as_json = call(plan, "--inventory", inventory, spec, "-o", "json")
    assert as_json.exit_code == 3
    found = json.loads(as_json.stdout)
    assert found["holds"] is False
    assert found["faults"]
    assert found["proof"] is None


@pytest.mark.parametrize(
    ("which", "old", "new"),
    [
        (1, "generation: 7", "generation: 8"),
        (1, "count: 2}]}\n  b", "count: 3}]}\n  b"),
        (2, "max: 3", "max: 4"),
        (2, "policy: throughput", "policy: energy"),
        (2, "cluster: 1500", "cluster: 30"),
        (2, "name: two\n", "name: two\ntenants: {t: {max_devices: {NVIDIA_A100_80G: 1}}}\n"),
    ],
)
def test_a_plan_for_other_files_is_refused_or_still_holds(
    files: tuple[str, str, str], which: int, old: str, new: str
) -> None:
    text = Path(files[which]).read_text()
    assert old in text
    Path(files[which]).write_text(text.replace(old, new))
    plan, inventory, spec = files
    done = call(plan, "--inventory", inventory, spec)
    harmless = "tenants" in new
    assert done.exit_code == (0 if harmless else 3), done.stdout + done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "feasible: true",
        '{"feasible": true}',
        '{"feasible": true, "value": NaN}',
        "\x00",
    ],
)
def test_a_broken_plan_is_bad_input(files: tuple[str, str, str], text: str) -> None:
    _, inventory, spec = files
    done = call("-", "--inventory", inventory, spec, stdin=text)
    assert done.exit_code == 2
    assert "this is no plan" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_infeasible_answer_is_no_plan(files: tuple[str, str, str]) -> None:
    plan, inventory, spec = files
    changed(plan, lambda d: d.update(feasible=False))
    done = call(plan, "--inventory", inventory, spec, "-o", "json")
    assert done.exit_code == 3
    assert "says that no plan exists" in done.stdout


def test_a_missing_file_and_a_broken_inventory_are_named(
    files: tuple[str, str, str], tmp_path: Path
) -> None:
    plan, inventory, spec = files
    assert "nothing.json" in call("nothing.json", "--inventory", inventory, spec).stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text("nodes: 3")
    done = call(plan, "--inventory", str(broken), spec)
    assert done.exit_code == 2
    assert "broken.yaml" in done.stderr


def test_a_change_that_touches_no_claim_is_noticed_too(
    files: tuple[str, str, str], tmp_path: Path
) -> None:
    _, inventory, spec = files
    printed = CliRunner().invoke(main, ["plan", "--inventory", inventory, spec, "-o", "json"])
    plan = tmp_path / "printed.json"
    plan.write_text(printed.stdout)
    assert call(str(plan), "--inventory", inventory, spec).exit_code == 0
    other = tmp_path / "other.yaml"
    text = Path(inventory).read_text()
    other.write_text(
        text.replace("nodes:", "nodes:\n  spare: {rack: r9, cpu: {cores: 1, memory_gib: 0.001}}", 1)
    )
    done = call(str(plan), "--inventory", str(other), spec)
    assert done.exit_code == 3, done.stdout + done.stderr
    assert "inventory" in done.stdout
