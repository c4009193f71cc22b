"""The guide to discovery tells the truth: its commands run, and what it names is what there is, neither more nor less."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from click.testing import CliRunner
from support.hosts import FakeHost

import actors.prober
from actors import health, library
from actors.host import TOOL_DIRECTORIES, RecordedHost
from actors.plugins import PROBES_GROUP, PROBES_PACKAGE, load_plugins
from actors.probe import LiveProbe
from actors.readers.rbln_daemon import PORT, PORT_ENV
from actors.readers.remote_entries import MOST_ENTRIES, entries
from actors.telemetry import GAUGES, STATE_LABELS
from actors.trust import MOST_DEVICES
from actors.vendors import families
from orchestrator import exit_codes
from orchestrator.cli import main
from orchestrator.controller import NODE_LEASE_S
from orchestrator.doctor_vendors import Surroundings, check_vendors
from orchestrator.replayed import replayed
from placement.devices import Health
from placement.ids import NodeId
from placement.interconnect import LinkKind

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests" / "recordings"
GUIDE = (ROOT / "docs" / "guide" / "discovery.md").read_text()
OTHERS = "".join(
    (ROOT / "docs" / "guide" / name).read_text() for name in ("cli.md", "specs.md", "engines.md")
)
FILES = dict(re.findall(r"```yaml\n# (\S+?)\n(.*?)```", GUIDE, re.DOTALL))
COMMANDS = re.findall(r"^\$ shardyard (.*)$", GUIDE, re.MULTILINE)

INTERNAL = {
    "SHARDYARD_ROLE",
    "SHARDYARD_COMPLETE",
    "SHARDYARD_ENGINE_OWNER",
    "SHARDYARD_ENV_ONNX_BUILDER",
}
"""Marks of our own processes and of click; they say nothing of devices."""


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    table = re.search(r"^\|.*?\n\n", GUIDE.partition(heading)[2], re.MULTILINE | re.DOTALL)
    assert table is not None, heading
    lines = table[0].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]


def named(heading: str) -> dict[str, list[str]]:
    """The rows of a table by the word in their first cell."""
    return {row[0].strip("` "): row for row in rows(heading)}


def variables(*folders: str) -> set[str]:
    """Our variables in the sources."""
    sources = [p for f in folders for p in sorted((ROOT / f).rglob("*.*")) if p.suffix != ".pyc"]
    texts = (p.read_text(errors="replace") for p in sources if p.is_file())
    return {name for text in texts for name in re.findall(r"SHARDYARD_[A-Z_]*[A-Z]", text)}


def test_the_commands_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        done = CliRunner().invoke(main, shlex.split(command))
        checks = (exit_codes.OK, exit_codes.DEGRADED) if "doctor" in command else (exit_codes.OK,)
        assert done.exit_code in checks, done.output
        assert done.stdout


def test_commands_that_need_a_cluster_have_the_options_that_the_guide_names() -> None:
    for line in re.findall(r"shardyard (devices|up|doctor|top|capture)([^`\n|]*)", GUIDE):
        known = {o for p in main.commands[line[0]].params for o in p.opts}
        assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line[1])) <= known, line


def test_the_lab_of_the_guide_has_a_node_of_each_level() -> None:
    nodes = yaml.safe_load(FILES["lab.yaml"])["nodes"].values()
    assert any("recording" in node for node in nodes)
    assert any(node.get("level") == "library" for node in nodes)
    assert any(not {"level", "recording"} & node.keys() for node in nodes)


def test_every_family_has_a_row_in_every_table() -> None:
    wanted = {*families(), "cpu"}
    assert set(named("## What is found")) == wanted
    assert set(named("### Launch handles")) == set(families())
    assert set(named("### What it rests on")) == wanted
    for name in load_plugins(PROBES_PACKAGE, PROBES_GROUP).found:
        assert f"`{name}`" in GUIDE or name == "emulated"


def test_the_variable_and_the_group_of_a_family_are_those_of_its_data() -> None:
    for name, row in named("### Launch handles").items():
        assert row[1].strip("`") == (families()[name].visible.variable or "none")
        group, files = families()[name].group, (*families()[name].nodes, "")
        assert not group or group in row[4] or f"group of `{files[0][:11]}" in row[4]


def test_families_without_live_values_are_those_whose_probe_is_not_polled() -> None:
    probes = load_plugins(PROBES_PACKAGE, PROBES_GROUP).found
    for name, row in named("## What is found").items():
        polled = isinstance(probes[name](), LiveProbe)
        assert bool(row[2].strip()) == polled or name == "remote"


def test_recordings_are_called_captured_only_where_one_is() -> None:
    for name, row in named("### What it rests on").items():
        origins = {
            str(RecordedHost(place.parent).facts["origin"])
            for place in RECORDINGS.glob(f"{name}/*/host.toml")
        }
        assert set(row[1].split(", ")) == origins, name


def test_every_variable_of_the_guide_is_read_and_every_variable_is_told() -> None:
    told = set(re.findall(r"SHARDYARD_[A-Z_]*[A-Z]", GUIDE))
    known = variables("actors", "orchestrator")
    libraries = {
        library.PYTHON_ENV + p.stem.upper() for p in (ROOT / "actors/libraries").glob("*.py")
    }
    assert told <= known | libraries
    assert known <= told | libraries | INTERNAL | set(re.findall(r"SHARDYARD_[A-Z_]*[A-Z]", OTHERS))
    for name in libraries:
        assert f"`_{name.removeprefix(library.PYTHON_ENV)}`" in GUIDE or f"`{name}`" in GUIDE
    assert f"`{PORT_ENV}`" in GUIDE
    assert f"port {PORT}" in GUIDE


def test_the_endpoints_of_the_guide_are_read() -> None:
    text = re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)[0]
    good, bad = entries("V", text)
    assert not bad
    assert set(type(good[0]).model_fields) == good[0].model_fields_set
    assert f"{MOST_ENTRIES} entries" in GUIDE


def test_every_metric_is_named_and_every_named_one_exists() -> None:
    told = re.findall(r"shardyard_device_\w+", GUIDE.partition("## Metrics")[2])
    assert set(told) == {g.name for g in GAUGES}
    for label in STATE_LABELS:
        assert f"`{label}`" in GUIDE.partition("## Metrics")[2]


def test_states_links_and_times_are_those_of_the_code() -> None:
    assert set(named("## Health and time")) == {str(h) for h in Health}
    for kind in LinkKind:
        assert f"`{kind}`" in GUIDE
    times = GUIDE.partition("| after | what happens")[2].partition("\n\n")[0]
    for line in times.splitlines()[2:]:
        for constant in re.findall(r"`([A-Z_]+)`", line):
            assert f"{_constant(health, constant):g} s" in line
    assert f"lease of {NODE_LEASE_S:g} s" in GUIDE
    assert f"every {actors.prober.LOOK_PERIOD_S:g} s" in GUIDE
    assert f"{actors.prober.PROBE_DEADLINE_S:g} s for each probe" in GUIDE
    assert f"{MOST_DEVICES:,} devices" in GUIDE
    assert not any(folder.startswith("/home") for folder in TOOL_DIRECTORIES)


def _constant(module: ModuleType, name: str) -> float:
    return float(vars(module)[name])


BOTH = {"RBLN_DEVICES": "0", "RBLN_VISIBLE_DEVICES": "1"}
DOCTORS = (
    ("nvidia/synthetic-broken-cards", "found", "", {}),
    ("furiosa/synthetic-dead-and-throttled", "unwell", "", {}),
    ("nvidia/synthetic-nouveau", "no driver", "", {}),
    ("nvidia/synthetic-driver-mismatch", "versions", "", {}),
    ("rebellions/synthetic-tool-hangs", "a tool that hangs", "", {}),
    ("rebellions/synthetic-tool-hangs", "Ray", "", {}),
    ("nvidia/synthetic-broken-cards", "permission", "/dev/nvidia0", {}),
    ("rebellions/captured-8x-ca22-loaded", "variables", "", BOTH),
    ("pci-scan/synthetic-unread-accelerators", "nobody's", "", {}),
)


def test_every_line_of_doctor_in_the_guide_is_compared() -> None:
    assert set(named("`doctor` needs no cluster")) == {finding for _, finding, _, _ in DOCTORS}


@pytest.mark.parametrize(("recording", "finding", "denied", "environment"), DOCTORS)
def test_doctor_says_on_a_recording_what_the_guide_says_it_does(
    recording: str, finding: str, denied: str, environment: dict[str, str]
) -> None:
    line = named("`doctor` needs no cluster")[finding][1].partition("` (")[0].strip("`")
    place = RECORDINGS / recording
    here = Surroundings(
        host=FakeHost(denied=frozenset({denied})) if denied else RecordedHost(place),
        report=replayed(NodeId("NODE"), place),
        installed={},
        has_module=lambda name: False,
        environment=environment,
    )
    said = [f"{check.check}: {check.detail}" for check in check_vendors(here)]
    wanted = ".*".join(map(re.escape, line.split("…")))
    assert any(re.fullmatch(wanted, text) for text in said), said
