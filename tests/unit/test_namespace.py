"""A pretended machine in a mount namespace: what is seen inside, and that nothing of it is seen outside."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.host import RealHost
from actors.probe import Found
from actors.probes.furiosa import FuriosaProbe
from actors.standins import furiosa, namespace
from placement.ids import NodeId

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 20

needs_namespace = pytest.mark.skipif(bool(namespace.reason()), reason=namespace.reason() or "none")


@pytest.fixture
def machine(tmp_path) -> Path:
    return furiosa.tree(tmp_path / "machine", 2)


@pytest.fixture
def untouched() -> Callable[[], None]:
    """Fails when this process sees other mounts or device files than before."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")

    def check() -> None:
        assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == mounts
        assert not Path("/dev/rngd").exists()
        assert not Path("/sys/class/rngd_mgmt").exists()

    check()
    return check


def inside(machine: Path, *command: str, binds=()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*namespace.prefix(machine, binds), *command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=ROOT,
    )


def shell(machine: Path, script: str, binds=()) -> str:
    done = inside(machine, "/bin/sh", "-c", script, binds=binds)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_root_the_reason_says_so(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    namespace.reason.cache_clear()
    assert "root" in namespace.reason()
    namespace.reason.cache_clear()


@needs_namespace
def test_the_cards_are_there_and_only_inside(machine, untouched):
    said = shell(machine, "ls /sys/class/rngd_mgmt; stat -c '%F %t:%T' /dev/rngd/npu1pe0-3")
    assert "rngd!npu1mgmt" in said
    assert "character special file ea:" in said
    untouched()


@needs_namespace
def test_other_hardware_of_the_bus_is_not_shown(machine):
    said = shell(machine, "ls /sys/bus/pci/devices").split()
    assert {"0000:27:00.0", "0000:2a:00.0"} <= set(said)
    assert "0000:00:00.0" not in said


@needs_namespace
def test_processors_cgroups_and_terminals_are_the_machines_own(machine):
    look = (
        "import os, pathlib; print(os.cpu_count(), sorted(os.listdir('/sys/fs/cgroup')), "
        "pathlib.Path('/sys/devices/system/cpu/online').read_text(), len(os.openpty()), "
        "os.path.exists('/dev/shm'), open('/dev/null').read())"
    )
    real = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    assert inside(machine, sys.executable, "-c", look).stdout == real.stdout


@needs_namespace
def test_the_processor_probe_finds_the_same_inside(machine):
    look = (
        "from actors.host import RealHost; from actors.probes.cpu import CpuProbe; "
        "found = CpuProbe().probe(RealHost(), 'n'); "
        "print(sorted(found.cpu.isa), found.cpu.memory_limit_bytes, found.devices)"
    )
    real = subprocess.run(
        [sys.executable, "-c", look],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
        cwd=ROOT,
    )
    assert inside(machine, sys.executable, "-c", look).stdout == real.stdout


@needs_namespace
def test_a_tool_appears_where_none_is(machine, tmp_path, untouched):
    tool = tmp_path / "some-smi"
    tool.write_text("#!/bin/sh\necho 4 cards\n", encoding="utf-8")
    tool.chmod(0o755)
    binds = [(str(tool), "/usr/bin/shardyard-a-smi"), (str(tool), "/usr/bin/shardyard-b-smi")]
    said = shell(machine, "shardyard-a-smi; shardyard-b-smi; ls /usr/bin/env", binds)
    assert said.split("\n")[:3] == ["4 cards", "4 cards", "/usr/bin/env"]
    assert not Path("/usr/bin/shardyard-a-smi").exists()
    untouched()


@needs_namespace
def test_a_file_can_stand_for_a_real_one(machine, tmp_path):
    name = tmp_path / "release"
    name.write_text("pretended\n", encoding="utf-8")
    assert shell(machine, "cat /etc/hostname", [(str(name), "/etc/hostname")]) == "pretended\n"


@needs_namespace
def test_a_card_that_dies_in_the_tree_dies_inside(machine):
    with subprocess.Popen(
        [*namespace.prefix(machine), "/bin/sh", "-c", 'while read name; do cat "$name"; done'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked = "/sys/class/rngd_mgmt/rngd!npu0mgmt/device_state\n"
        process.stdin.write(asked)
        process.stdin.flush()
        assert process.stdout.readline() == "0\n"
        state = machine / "sys/class/rngd_mgmt/rngd!npu0mgmt/device_state"
        state.write_text("3\n", encoding="utf-8")
        process.stdin.write(asked)
        process.stdin.flush()
        assert process.stdout.readline() == "3\n"


def test_a_card_can_be_taken_off_the_bus_and_put_back(machine):
    def seen() -> list[str]:
        outcome = FuriosaProbe().probe(RealHost(root=machine), NodeId("n"))
        assert isinstance(outcome, Found)
        return [a.handle for a in outcome.accelerators]

    first, second = furiosa.cards(2)
    furiosa.remove(machine, first)
    assert seen() == ["npu:1"]
    furiosa.write(machine, (first, second))
    assert seen() == ["npu:0", "npu:1"]


@needs_namespace
def test_the_command_is_the_process_that_was_started(machine, untouched):
    with subprocess.Popen(
        [*namespace.prefix(machine), "/bin/sh", "-c", "echo $$; exec sleep 60"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == -signal.SIGTERM
    untouched()


@needs_namespace
def test_its_exit_status_is_the_commands(machine):
    assert inside(machine, "/bin/sh", "-c", "exit 7").returncode == 7


@needs_namespace
@pytest.mark.parametrize(
    ("command", "binds", "said"),
    [
        (("/no/such/command",), (), "No such file"),
        (("true",), (("/no/such/file", "/usr/bin/x-smi"),), "mount"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(machine, untouched, command, binds, said):
    done = inside(machine, *command, binds=binds)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    untouched()


@pytest.mark.parametrize("count", [-1, 9])
def test_a_machine_that_cannot_be_pretended(tmp_path, count):
    with pytest.raises(ValueError, match="0 to 8 cards"):
        furiosa.stand_in(tmp_path, "FURIOSA_RNGD", count)


def test_a_product_that_is_not_of_this_kind(tmp_path):
    with pytest.raises(ValueError, match="NVIDIA_H100_80G"):
        furiosa.stand_in(tmp_path, "NVIDIA_H100_80G", 1)
