"""How a lab's nodes are started: declared, replayed, or with stand-ins that the vendors' own software believes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hosts import RECORDINGS

from actors import stand_in
from actors.host import RecordedHost
from actors.names import NODE_ENV, PROBES_ENV
from orchestrator.emulation import at_level, settings_of
from orchestrator.errors import ControlError
from orchestrator.lab_file import Lab, load_lab
from orchestrator.raylets import worker_command

RNGDS = RECORDINGS / "furiosa" / "synthetic-4-cards"


def lab_of(folder: Path, devices: str, level: str = "library", more: str = "") -> Lab:
    place = folder / "lab.yaml"
    place.write_text(
        f"nodes:\n  n1:\n    emulated: true\n    rack: r1\n    level: {level}\n"
        f"    devices: {devices}\n{more}"
    )
    return load_lab(place)


def refused(folder: Path, devices: str, more: str = "") -> str:
    lab = lab_of(folder, devices, more=more)
    with pytest.raises(ControlError) as raised:
        settings_of(lab.nodes[0], lab.inventory, folder / "run")
    assert "node n1" in raised.value.message
    assert "--level declared" in raised.value.hint
    return raised.value.message


@pytest.mark.parametrize(
    ("devices", "why"),
    [
        ("[]", "it has none"),
        ("[{class: NVIDIA_H100_80G}, {class: RBLN_ATOM}]", "it has NVIDIA_H100_80G, RBLN_ATOM"),
        ("[{class: AMD_MI300X_192G}]", "no stand-in for the software of amd"),
        ("[{class: RBLN_ATOM, count: 65}]", "0 to 64 devices"),
        ("[{class: RBLN_ATOM, count: 2, unhealthy: [1]}]", "cannot be told unhealthy"),
        ("[{class: RBLN_ATOM, memory_gib: 8}]", "cannot be told memory_gib"),
    ],
)
def test_what_no_library_can_tell_is_refused_with_the_reason(devices, why, tmp_path):
    assert why in refused(tmp_path, devices)


def test_a_processor_beside_the_cards_is_named(tmp_path):
    said = refused(tmp_path, "[{class: RBLN_ATOM}]", "    cpu: {cores: 4, memory_gib: 8}\n")
    assert "it has CPU, RBLN_ATOM" in said


def test_a_missing_compiler_is_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install gcc" in refused(tmp_path, "[{class: NVIDIA_H100_80G}]")


def test_a_flag_moves_the_nodes_that_can_be_there_and_no_others(tmp_path):
    place = tmp_path / "lab.yaml"
    place.write_text(
        "nodes:\n"
        "  amd: {emulated: true, devices: [{class: AMD_MI300X_192G}]}\n"
        "  cpu: {emulated: true, cpu: {cores: 4, memory_gib: 8}}\n"
        "  rbln: {emulated: true, devices: [{class: RBLN_ATOM}]}\n"
        f"  tape: {{emulated: true, recording: {RNGDS}}}\n"
    )
    lab = load_lab(place)
    levels = {node.id: node.level for node in at_level(lab, "library").nodes}
    can = "declared" if stand_in.missing("rebellions") else "library"
    assert levels == {"amd": "declared", "cpu": "declared", "rbln": can, "tape": "declared"}
    back = at_level(at_level(lab, "library"), "declared")
    assert {node.level for node in back.nodes} == {"declared"}
    assert at_level(lab, None) is lab


def test_a_declared_and_a_recorded_node_need_no_command_in_front(tmp_path):
    lab = lab_of(tmp_path, "[{class: RBLN_ATOM, count: 2}]", level="declared")
    declared = settings_of(lab.nodes[0], lab.inventory, tmp_path)
    assert json.loads(declared.emulate)["devices"] == [{"class": "RBLN_ATOM", "count": 2}]
    assert worker_command(declared, address="h:1", agent_port=2)[0] == sys.executable
    place = tmp_path / "tape.yaml"
    place.write_text(f"nodes:\n  n1: {{emulated: true, recording: {RNGDS}}}\n")
    tape = load_lab(place)
    replayed = settings_of(tape.nodes[0], tape.inventory, tmp_path)
    assert (replayed.recording, replayed.emulate, replayed.stand_in) == (str(RNGDS), "", None)


LOOK = """
import json
from actors.host import RealHost
from actors.prober import prober_of_this_node
host = RealHost()
report = prober_of_this_node(host, "").report()
host.libraries.close()
told = [[d.id, d.device_class, d.emulated] for d in report.devices]
print(json.dumps([told, len(report.readings), len(report.broken)]))
"""


@pytest.mark.parametrize(
    ("device_class", "count"),
    [("NVIDIA_H100_80G", 2), ("FURIOSA_RNGD", 2), ("RBLN_ATOM_MAX", 4)],
)
def test_the_probes_meet_exactly_the_pretended_devices_and_nothing_stays(
    device_class, count, tmp_path
):
    lab = lab_of(tmp_path, f"[{{class: {device_class}, count: {count}}}]")
    try:
        settings = settings_of(lab.nodes[0], lab.inventory, tmp_path / "run")
    except ControlError as error:
        pytest.skip(error.message)
    assert settings.stand_in is not None
    command = worker_command(settings, address="h:1", agent_port=2)
    prefix = settings.stand_in.prefix
    assert tuple(command[: len(prefix)]) == prefix
    named = {PROBES_ENV: settings.probes, NODE_ENV: settings.name, "RUN_OF_TEST": str(tmp_path)}
    done = subprocess.run(
        [*prefix, sys.executable, "-P", "-c", LOOK],
        env=stand_in.with_paths(os.environ, settings.stand_in.environment) | named,
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    devices, readings, broken = json.loads(done.stdout)
    assert devices == [[f"n1/{k}", device_class, True] for k in range(count)]
    assert (readings, broken) == (count, 0)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


CAPTURE = "import sys; from orchestrator.cli import main; main(['capture', sys.argv[1]])"


@pytest.mark.parametrize("device_class", ["NVIDIA_H100_80G", "FURIOSA_RNGD", "RBLN_ATOM"])
def test_a_pretended_machine_can_be_captured_and_replays(device_class, tmp_path):
    lab = lab_of(tmp_path, f"[{{class: {device_class}, count: 2}}]")
    try:
        made = settings_of(lab.nodes[0], lab.inventory, tmp_path / "run").stand_in
    except ControlError as error:
        pytest.skip(error.message)
    assert made is not None
    done = subprocess.run(
        [*made.prefix, sys.executable, "-P", "-c", CAPTURE, str(tmp_path / "tape")],
        env=stand_in.with_paths(os.environ, made.environment),
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert RecordedHost(tmp_path / "tape").facts["origin"] == "synthetic"


def test_rebellions_tool_stands_where_it_is_installed(tmp_path):
    lab = lab_of(tmp_path, "[{class: RBLN_ATOM, count: 2}]")
    try:
        made = settings_of(lab.nodes[0], lab.inventory, tmp_path / "run").stand_in
    except ControlError as error:
        pytest.skip(error.message)
    assert made is not None
    if "--bind" not in made.prefix:
        pytest.skip("no file can be shown in another place here")
    done = subprocess.run(
        [*made.prefix, "/usr/bin/rbln-smi", "-j"],
        env=stand_in.with_paths(os.environ, made.environment),
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert len(json.loads(done.stdout)["devices"]) == 2, done.stderr
