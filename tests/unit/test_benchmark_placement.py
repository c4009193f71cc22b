"""The placement benchmark: its instances, its files and its lines."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from benchmarks import placement
from benchmarks.instances import make, pools
from benchmarks.seating import wanted
from orchestrator.inventory_dump import dump_inventory
from orchestrator.inventory_file import parse_inventory
from orchestrator.offline import plan_files
from orchestrator.spec import dump_app, parse_app
from placement import Plan, Problem
from placement.errors import SpecError

FIELDS = {
    "devices",
    "models",
    "replicas",
    "value",
    "bound",
    "gap",
    "proven",
    "verified",
    "packed",
    "cpu_s",
    "peak_mib",
}
LOSS_FIELDS = {"node", "displaced", "changed_unaffected", "unpacked", "gap", "cpu_s"}
SMALL = ["--devices", "16", "--models", "3"]


@pytest.mark.parametrize(
    ("devices", "models", "replicas"), [(62, 10, 26), (258, 40, 101), (1022, 150, 351)]
)
def test_sizes_are_as_asked(devices: int, models: int, replicas: int) -> None:
    app, inventory = make(devices, models, 0)
    assert sum(len(n.devices) for n in inventory.nodes) == devices
    assert len(app.demands) == models
    assert sum(d.replicas_min for d in app.demands) == replicas
    assert all(d.replicas_min == d.replicas_max for d in app.demands)


@pytest.mark.parametrize("devices", [2, 5, 8, 63, 100, 999])
def test_any_number_is_met_to_within_a_node(devices: int) -> None:
    _, inventory = make(devices, 1, 0)
    assert devices - 8 < sum(len(n.devices) for n in inventory.nodes) <= devices


def test_a_seed_gives_one_instance_and_another_seed_another() -> None:
    assert make(62, 10, 3) == make(62, 10, 3)
    assert make(62, 10, 3) != make(62, 10, 4)
    assert pools(24, 3) == pools(24, 3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_several_classes_are_wanted_more_than_there_are(seed: int) -> None:
    app, inventory = make(1022, 150, seed)
    there = Counter(d.device_class for n in inventory.nodes for d in n.devices)
    short = [name for name, count in wanted(app.demands, inventory).items() if count > there[name]]
    assert len(short) >= 3
    assert {d.spread for d in app.demands} == {"node", "none"}
    assert app.budgets.cluster_w is not None
    compiled = [set(n.artifacts) for n in inventory.nodes if n.id.startswith("rngd")]
    assert compiled[0]
    assert all(held == compiled[0] for held in compiled)


@pytest.mark.parametrize("made", [make(62, 10, 0), make(63, 7, 5), pools(24, 1)])
def test_the_files_hold_the_instance_exactly(made) -> None:
    app, inventory = made
    assert parse_app(dump_app(app), "app.yaml") == app
    assert parse_inventory(dump_inventory(inventory), "inventory.yaml") == inventory


def test_more_models_than_room_is_a_clear_error() -> None:
    with pytest.raises(SpecError, match="no room"):
        make(8, 400, 0)


@pytest.mark.parametrize("nodes", [4, 24, 48])
def test_pools_are_single_gpus_of_several_classes(nodes: int) -> None:
    app, inventory = pools(nodes, 0)
    assert [len(n.devices) for n in inventory.nodes] == [1] * nodes
    assert nodes == 4 or 3 <= len({n.devices[0].device_class for n in inventory.nodes}) <= 5
    (asked,) = app.demands
    assert asked.replicas_min == 1


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert placement.main(SMALL) == 0
    (line,) = _lines(capsys)
    assert set(line) >= FIELDS
    assert line["verified"]
    assert line["packed"]
    assert line["gap"] == pytest.approx(
        0.0 if line["proven"] else (line["bound"] - line["value"]) / abs(line["bound"])
    )


def test_each_node_is_lost_once(capsys: pytest.CaptureFixture[str]) -> None:
    placement.main([*SMALL, "--lose-nodes"])
    first, *losses = _lines(capsys)
    _, inventory = make(16, 3, 0)
    assert first["feasible"]
    assert [line["node"] for line in losses] == [n.id for n in inventory.nodes]
    assert all(set(line) >= LOSS_FIELDS for line in losses)
    assert all(line.get("verified", True) for line in losses)


def test_what_is_written_plans_to_the_same_worth(capsys, tmp_path) -> None:
    folder = tmp_path / "instance"
    assert placement.main([*SMALL, "--write", str(folder)]) == 0
    (line,) = _lines(capsys)
    outcome = plan_files(folder / "app.yaml", folder / "inventory.yaml").outcome
    assert isinstance(outcome, Plan)
    assert outcome.value == line["value"]


def test_what_cannot_be_placed_is_said_and_ends_with_three() -> None:
    app, inventory = make(16, 3, 0)
    less = placement.without(inventory, inventory.nodes[0].id)
    problem = Problem(inventory=less, app=app)
    line = placement.whole_line(problem, placement.ask(problem, lp=False, deadline_s=None))
    assert not line["feasible"]
    assert line["conflict"]
    assert placement.status([line]) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--devices", "16"],
        ["--devices", "16", "--models", "3", "--pools", "4"],
        ["--devices", "0", "--models", "3"],
        ["--devices", "16", "--models", "x"],
        ["--pools", "1"],
        [*SMALL, "--deadline", "nan"],
        [*SMALL, "--deadline", "-1"],
        ["--devices", "8", "--models", "400"],
    ],
)
def test_bad_arguments_end_with_two(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        placement.main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
