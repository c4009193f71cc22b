"""Rebellions' stand-ins: what the vendor's own software and our probe see of devices that are made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from support.hosts import gone, in_memory

from actors.host import RealHost
from actors.library import Libraries
from actors.names import STAND_IN_ENV
from actors.probe import Absent, Broken, Found
from actors.probes.rebellions import RebellionsProbe
from actors.readers.rbln_daemon import readings_of_daemon, rows_of_daemon
from actors.stand_in import with_paths
from actors.standins.rebellions import environment, start_daemon
from placement.ids import NodeId

NODE = NodeId("n")
ROOT = Path(__file__).parents[2]
PATIENCE_S = 10.0
LAST_EVENT = "command processor event"


@pytest.fixture
def host(tmp_path):
    libraries = Libraries()
    yield RealHost(tmp_path, (str(tmp_path / "bin"),), libraries)
    libraries.close()


def until(check):
    """The first true answer; the last one when none comes in time."""
    ends = time.monotonic() + PATIENCE_S
    while not (answer := check()) and time.monotonic() < ends:
        pass
    return answer


def in_process(variables, code):
    return json.loads(
        subprocess.run(
            [sys.executable, "-c", code],
            env=with_paths(os.environ, variables),
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    )


def found(host, probe) -> Found:
    outcome = probe.probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def test_rays_own_detection_counts_the_devices(tmp_path):
    code = (
        "import json, importlib.util as u; from pathlib import Path\n"
        "from ray._private.accelerators.rbln import RBLNAcceleratorManager as m\n"
        "print(json.dumps([m.get_current_node_num_accelerators(), m.get_current_node_accelerator_type()]))"
    )
    assert in_process(environment(tmp_path, "RBLN_ATOM_MAX", 4), code) == [4, "RBLN-CA25"]
    assert in_process({**environment(tmp_path, "RBLN_ATOM", 0)}, code) == [0, None]


def test_the_runtime_is_asked_through_its_library(tmp_path, host, monkeypatch):
    for name, value in with_paths(os.environ, environment(tmp_path, "RBLN_ATOM_PLUS", 2)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(os.environ["PYTHONPATH"].partition(os.pathsep)[0])
    answer = host.ask("rebel", "devices", PATIENCE_S)
    assert answer is not None, "the package is found"
    assert json.loads(answer.out) == {
        "count": 2,
        "devices": [{"name": "RBLN-CA22", "available": True}] * 2,
    }
    other = host.ask("rebel", "weather", PATIENCE_S)
    assert other is not None
    assert other.rc
    assert "weather" in other.err


def test_nothing_compiles_on_a_stand_in(tmp_path):
    code = (
        "import json, rebel; from rebel.compile_context import CompileContext\n"
        "try: CompileContext()\n"
        "except RuntimeError as error: print(json.dumps(str(error)))"
    )
    assert "no hardware" in in_process(environment(tmp_path, "RBLN_ATOM", 1), code)


def test_the_tool_prints_the_shape_of_the_real_one(tmp_path, host, monkeypatch):
    for name, value in environment(tmp_path, "RBLN_ATOM_MAX", 8).items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "sys/class/rebellions"
    for k in range(8):
        (folder / f"rbln{k}").mkdir(parents=True)
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / f"dev/rbln{k}").touch()
    probe = RebellionsProbe()
    outcome = found(host, probe)
    assert {a.device_class for a in outcome.accelerators} == {"RBLN_ATOM_MAX"}
    assert len({a.board for a in outcome.accelerators}) == 2
    assert outcome.broken == ()
    powers = [reading.power_w for reading in probe.poll(host, outcome).values()]
    assert powers == pytest.approx([18.1 / 4] * 8)


def test_the_probe_believes_the_daemon(tmp_path, host, monkeypatch):
    with start_daemon("RBLN_REBEL_QUAD", 3) as daemon:
        for name, value in environment(tmp_path, "RBLN_REBEL_QUAD", 3, port=daemon.port).items():
            monkeypatch.setenv(name, value)
        probe = RebellionsProbe()
        daemon.unplaced.add("rbln1")
        outcome = found(host, probe)
        assert [(a.handle, a.device_class) for a in outcome.accelerators] == [
            ("0", "RBLN_REBEL_QUAD"),
            ("1", "RBLN_REBEL_QUAD"),
            ("2", "RBLN_REBEL_QUAD"),
        ]
        assert all(a.uuid and a.pci and a.memory_bytes for a in outcome.accelerators)
        assert [a.numa_node for a in outcome.accelerators] == [0, None, 1], (
            "a failure is not node 0"
        )
        daemon.figures["rbln1"] = {"p_state": 10, "utilization": 40.0, "temperature": 91_500.0}
        daemon.figures["rbln2"] = {"dev_status": 3}
        ids = [a.identity for a in outcome.accelerators]
        readings = probe.poll(host, outcome)
        assert readings[ids[0]].power_w == pytest.approx(18.1)
        assert readings[ids[1]].throttled == ("thermal",)
        assert readings[ids[1]].utilisation == pytest.approx(0.4)
        assert readings[ids[1]].temperature_c == pytest.approx(91.5)
        assert "faulty" in readings[ids[2]].faults[0]
    assert probe.poll(host, outcome) == {}, "nobody answers any more"
    assert isinstance(probe.probe(host, NODE), Broken)


def test_events_of_the_daemon_become_faults(tmp_path, host):
    uptime_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/uptime").write_text(f"{uptime_s + 1} 1.00\n")
    with start_daemon("RBLN_ATOM", 2) as daemon:
        daemon.event("rbln1", 1, uptime_s - 5.0)
        daemon.event("rbln1", 0, uptime_s + 90_000.0)
        daemon.event("rbln0", 2, uptime_s - 500.0)
        for age_s in range(20):
            daemon.event("rbln1", 4, uptime_s - 5000.0 - age_s)
        daemon.event("rbln1", 3, uptime_s - 1.0)

        def faults():
            readings = readings_of_daemon(host, f"tcp.{daemon.port}") or {}
            told = {name: r.faults for name, r in readings.items() if r.faults}
            return told if LAST_EVENT in told.get("rbln1", ()) else {}

        assert until(faults) == {"rbln1": ("hard reset of its RSD group", LAST_EVENT)}


def test_a_daemon_that_was_started_anew_is_found_again(host):
    with start_daemon("RBLN_ATOM", 1) as daemon:
        place = f"tcp.{daemon.port}"
        assert readings_of_daemon(host, place)
    assert readings_of_daemon(host, place) is None
    with start_daemon("RBLN_ATOM", 2, daemon.port):
        assert len(until(lambda: readings_of_daemon(host, place))) == 2


def test_another_service_on_the_port_is_no_daemon(host):
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert readings_of_daemon(host, f"tcp.{port}") is None
        assert rows_of_daemon(host, f"tcp.{port}") is None
    finally:
        server.stop(None).wait(PATIENCE_S)


def test_without_a_stand_in_a_named_port_makes_no_devices(tmp_path, host, monkeypatch):
    monkeypatch.delenv(STAND_IN_ENV, raising=False)
    with start_daemon("RBLN_ATOM", 1) as daemon:
        monkeypatch.setenv("RBLN_SMD_PORT", str(daemon.port))
        assert RebellionsProbe().probe(host, NODE) == Absent()


def test_the_daemon_as_a_program_ends_with_its_owner():
    process = subprocess.Popen(
        [sys.executable, "-m", "actors.standins.rebellions", "RBLN_ATOM", "1", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        process.stdin.close()
        assert gone(process.pid)


@pytest.mark.parametrize(
    ("name", "count"), [("NVIDIA_H100_80G", 1), ("RBLN_ATOM", -1), ("RBLN_ATOM", 10_000)]
)
def test_what_cannot_be_stood_in_for_is_refused(tmp_path, name, count):
    with pytest.raises(ValueError, match="stand-in"):
        environment(tmp_path, name, count)


def test_the_runtime_names_the_products_where_nothing_else_does():
    machine = in_memory("rebellions", "captured-8x-ca22-loaded")
    rows = [{"name": f"RBLN-CA22-{k}", "available": True} for k in range(8)]
    there = replace(machine, tools={}, libraries={"rebel_devices": json.dumps({"devices": rows})})
    found = RebellionsProbe().probe(there, NODE)
    assert isinstance(found, Found)
    assert [a.product for a in found.accelerators] == [row["name"] for row in rows]
    for odd in ('{"devices": 7}', '{"devices": [1, {}]}', "[]", "nonsense"):
        outcome = RebellionsProbe().probe(replace(there, libraries={"rebel_devices": odd}), NODE)
        assert isinstance(outcome, Found | Broken)
