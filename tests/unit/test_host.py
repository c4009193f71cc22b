"""The door to the machine: caps, deadlines, nothing left behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from support.hosts import FakeHost, gone

from actors.host import OUTPUT_CAP_BYTES, RealHost, RecordedHost, command_name
from actors.machine import machine_id, node_name
from actors.rooted_files import READ_CAP_BYTES
from placement.errors import SpecError


@pytest.fixture
def tools(tmp_path: Path):
    """A host whose only tools are scripts of the test."""
    folder = tmp_path / "tools"
    folder.mkdir()

    def make(name: str, body: str) -> RealHost:
        script = folder / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        return RealHost(tool_directories=(str(folder),))

    return make


def test_reads_and_lists_below_another_root(tmp_path):
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys" / "b").write_text("two")
    (tmp_path / "sys" / "a").write_bytes(b"o\xffne")
    host = RealHost(root=tmp_path)
    assert host.list("/sys") == ("a", "b")
    assert host.read("/sys/a") == "o\ufffdne"
    assert host.read("/sys") is None
    assert host.read("/sys/none") is None
    assert host.list("/none") == ()


def test_a_large_file_is_cut_and_a_fifo_does_not_block(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * (READ_CAP_BYTES + 10))
    os.mkfifo(tmp_path / "fifo")
    host = RealHost(root=tmp_path)
    assert len(host.read("/large") or "") == READ_CAP_BYTES
    assert host.read("/fifo") in (None, "")


@pytest.mark.parametrize("path", ["relative", "/sys/../etc/passwd"])
def test_paths_that_leave_the_root_are_refused(tmp_path, path):
    with pytest.raises(ValueError, match="absolute"):
        RealHost(root=tmp_path).read(path)


def test_a_tool_answers_in_plain_text(tools):
    host = tools("tool", 'echo "$1 $LC_ALL $TERM"; echo oops >&2; exit 3')
    completed = host.run(["tool", "a;b"], 5.0)
    assert completed is not None
    assert (completed.rc, completed.out, completed.err) == (3, "a;b C dumb\n", "oops\n")
    assert completed.ended == "exit"


def test_tools_never_come_from_the_path(tools, monkeypatch, tmp_path):
    tools("shadow", "echo wrong")
    monkeypatch.setenv("PATH", str(tmp_path / "tools"))
    assert RealHost().run(["shadow"], 1.0) is None


def test_a_hanging_tool_ends_with_its_children_at_the_deadline(tools, tmp_path):
    pid_file = tmp_path / "pid"
    host = tools("hang", f"sleep 60 & echo $! > {pid_file}; echo first; wait")
    completed = host.run(["hang"], 0.5)
    assert completed is not None
    assert (completed.ended, completed.out) == ("timeout", "first\n")
    assert gone(int(pid_file.read_text()))


def test_a_child_that_holds_the_output_open_does_not_delay_the_answer(tools, tmp_path):
    pid_file = tmp_path / "pid"
    host = tools("fork", f"sleep 60 & echo $! > {pid_file}; echo done")
    completed = host.run(["fork"], 30.0)
    assert completed is not None
    assert (completed.ended, completed.rc, completed.out) == ("exit", 0, "done\n")
    assert gone(int(pid_file.read_text()))


def test_endless_output_is_cut(tools):
    completed = tools("flood", "exec cat /dev/zero").run(["flood"], 30.0)
    assert completed is not None
    assert completed.ended == "output_cap"
    assert len(completed.out) < OUTPUT_CAP_BYTES + 2**20


def test_a_file_that_is_no_program_is_an_answer(tools):
    host = tools("broken", "")
    (Path(host.tool_directories[0]) / "broken").write_bytes(b"\x00\x01")
    completed = host.run(["broken"], 1.0)
    assert completed is not None
    assert completed.rc == 126


def test_a_recording_replays_files_commands_and_variables(tmp_path):
    (tmp_path / "commands").mkdir()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "x").write_text("1")
    (tmp_path / "commands" / f"{command_name(['smi', '-j'])}.txt").write_text("{}")
    (tmp_path / "host.toml").write_text('origin = "synthetic"\n[env]\nA = "b"\n')
    host = RecordedHost(tmp_path)
    assert (host.read("/proc/x"), host.list("/proc"), host.env("A")) == ("1", ("x",), "b")
    completed = host.run(["/usr/bin/smi", "-j"], 1.0)
    assert completed is not None
    assert completed.out == "{}"
    assert host.run(["smi", "-q"], 1.0) is None
    assert host.env("PATH") is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/sys/kernel/hostname": "Lab_1\n", "/etc/machine-id": "ab" * 16}, "Lab_1-ababab"),
        ({"/proc/sys/kernel/hostname": "lab\n", "/etc/machine-id": "uninitialized\n"}, "lab"),
        ({"/etc/hostname": "a/b c\n"}, "a-b-c"),
        ({}, "localhost"),
    ],
)
def test_a_node_nobody_named_is_called_after_its_machine(files, expected):
    assert node_name(FakeHost(files)) == expected


def test_a_node_has_its_explicit_name_or_a_clear_refusal():
    assert node_name(FakeHost(), "gpu-1") == "gpu-1"
    for name in ("a/b", "-x", "x" * 64, "ü"):
        with pytest.raises(SpecError, match="cannot name a node"):
            node_name(FakeHost(), name)


def test_no_machine_id_is_none():
    assert machine_id(FakeHost()) is None


def test_a_name_with_a_nul_is_no_name(tmp_path: Path):
    host = RealHost(tmp_path)
    assert host.read("/\x00") is None
    assert host.list("/\x00") == ()


def test_links_are_followed_inside_the_root_only(tmp_path: Path):
    (tmp_path / "sys/devices/pci0/.hidden").mkdir(parents=True)
    (tmp_path / "sys/card").symlink_to("devices/pci0/.hidden")
    (tmp_path / "sys/out").symlink_to("/")
    host = RealHost(tmp_path)
    assert host.resolve("/sys/card") == "/sys/devices/pci0/.hidden"
    assert host.resolve("/sys/out") is None
    assert host.resolve("/sys/none") is None


@pytest.mark.parametrize("url", ["ftp://x/y", "http://[", "http://127.0.0.1:1/", "nonsense"])
def test_a_fetch_that_finds_nobody_says_why(url):
    answer = RealHost().fetch(url, 2.0)
    assert answer is not None
    assert answer.status == 0
    assert answer.text


def test_a_fetch_from_a_server_that_never_answers_ends_at_its_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = RealHost().fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/", 0.2)
    assert answer is not None
    assert answer.status == 0
    assert answer.seconds < 5
