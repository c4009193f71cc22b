"""Lab files with recorded nodes and levels: what is wrong with one is said with its line, and a good one plans."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.hosts import RECORDINGS

from orchestrator.cli import main
from orchestrator.inventory_dump import dump_inventory
from orchestrator.inventory_file import parse_inventory
from orchestrator.lab_file import load_lab
from placement.errors import SpecError
from placement.inventory import Inventory

RNGDS = RECORDINGS / "furiosa" / "synthetic-4-cards"
MACHINES = sorted(place.parent for place in RECORDINGS.rglob("host.toml"))


def wrong(folder: Path, body: str) -> SpecError:
    place = folder / "lab.yaml"
    place.write_text(f"nodes:\n  n1:\n{body}")
    with pytest.raises(SpecError) as raised:
        load_lab(place)
    return raised.value


@pytest.mark.parametrize(
    ("host", "why"),
    [
        (None, "there is no such folder"),
        ("", "it has no host.toml"),
        ('origin = "captured\n', "line 1"),
        ("env = 3", "[env] should be a table of texts"),
        ("[access]\n'/dev/x' = 1", "[access] should be a table of texts"),
    ],
)
def test_what_is_no_recording_is_named_with_its_line(host, why, tmp_path):
    tape = tmp_path / "tape"
    if host is not None:
        tape.mkdir()
    if host:
        (tape / "host.toml").write_text(host)
    error = wrong(tmp_path, "    emulated: true\n    recording: tape\n")
    assert error.message.startswith(f"{tmp_path}/lab.yaml:4: nodes.n1.recording: ")
    assert why in error.message
    assert "shardyard capture" in error.hint


def test_a_file_is_no_recording(tmp_path):
    (tmp_path / "tape").write_text("x")
    assert "it is a file" in wrong(tmp_path, "    emulated: true\n    recording: tape\n").message


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (f"    recording: {RNGDS}\n", "a recorded node is emulated"),
        (f"    emulated: true\n    recording: {RNGDS}\n    cpu: {{cores: 2}}\n", "neither devices"),
        (f"    emulated: true\n    recording: {RNGDS}\n    level: library\n", "nor a level"),
        ("    emulated: true\n    recording: ''\n", "at least 1 character"),
        ("    emulated: true\n    level: deep\n", "'declared' or 'library', not deep"),
        ("    level: library\n", "only an emulated node has a level"),
    ],
)
def test_keys_that_exclude_each_other(body, why, tmp_path):
    error = wrong(tmp_path, body)
    assert why in error.message
    assert "lab.yaml:" in error.message


def test_a_recording_is_found_from_the_file_and_keeps_what_the_file_says(tmp_path, monkeypatch):
    (tmp_path / "labs").mkdir()
    (tmp_path / "tape").symlink_to(RNGDS)
    place = tmp_path / "labs" / "lab.yaml"
    place.write_text(
        "nodes:\n  n1:\n    emulated: true\n    rack: r7\n    recording: ../tape\n"
        "    artifacts: [{model: m, class: FURIOSA_RNGD}]\n    models: []\n"
    )
    monkeypatch.chdir("/")
    lab = load_lab(place)
    (node,) = lab.inventory.nodes
    assert [d.id for d in node.devices if d.device_class == "FURIOSA_RNGD"] == [
        f"n1/{k}" for k in range(4)
    ]
    assert [a.model for a in node.artifacts] == ["m"]
    assert (node.rack, node.models) == ("r7", ())
    assert lab.nodes[0].recording == RNGDS.resolve()


def told(inventory: Inventory) -> dict[str, tuple[object, ...]]:
    return {
        d.id: (d.device_class, d.memory_bytes, d.health, d.speed, d.shares, d.emulated)
        for node in inventory.nodes
        for d in node.devices
        if "/cpu" not in d.id
    }


@pytest.mark.parametrize("machine", MACHINES, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_a_recorded_machine_as_yaml_has_the_same_devices(machine):
    text = f"nodes:\n  n1: {{emulated: true, recording: {machine}}}\n"
    recorded = parse_inventory(text, "lab.yaml")
    again = parse_inventory(dump_inventory(recorded), "dumped.yaml")
    assert told(again) == told(recorded)


def test_the_command_shows_a_recorded_node(tmp_path):
    place = tmp_path / "lab.yaml"
    place.write_text(f"nodes:\n  n1: {{emulated: true, recording: {RNGDS}}}\n")
    done = CliRunner().invoke(main, ["devices", "--inventory", str(place)])
    assert done.exit_code == 0, done.output
    assert "n1/0 - 3" in done.output
    assert "EMULATED" in done.output


def test_the_schema_describes_level_and_recording():
    text = CliRunner().invoke(main, ["schema", "inventory"]).output
    assert "How deep an emulated node pretends" in text
    assert "A folder that `shardyard capture` wrote" in text
