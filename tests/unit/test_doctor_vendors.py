"""What `doctor` says of accelerators: each kind of finding, on machines that have it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import pytest
from support.hosts import RECORDINGS, FakeHost

from actors.pci import pci_functions
from actors.plugins import load_plugins
from actors.report import BrokenProbe, DeviceFacts, NodeReport
from actors.vendors import families
from actors.version_range import within
from actors.versions import versions
from orchestrator import doctor
from orchestrator.check import Check
from orchestrator.doctor_vendors import Surroundings, check_vendors
from orchestrator.inventory_file import parse_inventory
from orchestrator.settings import load_settings
from placement.devices import Device, Health
from placement.ids import DeviceId, NodeId

NODE = NodeId("n")
FUNCTION = "/sys/bus/pci/devices/0000:27:00.0"
ON_THE_BUS = FakeHost(
    {
        f"{FUNCTION}/vendor": "0x1ed2\n",
        f"{FUNCTION}/device": "0x0001\n",
        f"{FUNCTION}/class": "0x120000\n",
    }
)
CARD = Device(
    id=DeviceId("n/0"),
    node=NODE,
    device_class="FURIOSA_RNGD",
    memory_bytes=1 << 30,
    identity="furiosa:RNG1@0000:27:00.0",
)


def report(*devices: Device, broken: tuple[BrokenProbe, ...] = (), **more) -> NodeReport:
    return NodeReport(
        node=NODE, hostname="n", versions=versions(), devices=devices, broken=broken, **more
    )


def checks(
    told: NodeReport,
    host: FakeHost | None = None,
    installed: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    modules: bool = True,
    **more,
) -> list[Check]:
    machine = host or FakeHost()
    here = Surroundings(
        host=machine,
        report=told,
        installed={"furiosa-smi": "2026.4.0"} if installed is None else installed,
        has_module=lambda _: modules,
        environment=environment or {},
        functions=pci_functions(machine),
        **more,
    )
    found = list(check_vendors(here))
    assert all(c.hint or c.status == "ok" for c in found)
    assert all(c.detail for c in found)
    return found


def test_a_machine_without_accelerators_is_one_line():
    (only,) = checks(report(), installed={})
    assert (only.status, only.detail) == ("ok", "no accelerator on this machine")


def test_software_without_a_device_is_no_problem():
    nothing, idle = checks(report(), installed={"furiosa-smi": "2026.4.0", "openvino": "2026.4"})
    assert nothing.detail == "no accelerator on this machine"
    assert (idle.check, idle.status) == ("furiosa", "ok")
    assert "furiosa-smi 2026.4.0 installed" in idle.detail


def test_the_package_that_we_bring_ourselves_is_no_news():
    (only,) = checks(report(), installed={"nvidia-ml-py": "13.615.71"})
    assert only.detail == "no accelerator on this machine"


def test_what_is_found_is_counted_by_class():
    cards = (CARD, replace(CARD, id=DeviceId("n/1"), identity="furiosa:RNG2@0000:28:00.0"))
    (only,) = checks(report(*cards))
    assert (only.check, only.status, only.detail) == ("furiosa", "ok", "found 2 FURIOSA_RNGD")


def test_a_card_that_nobody_can_use_names_what_to_install():
    (only,) = [c for c in checks(report(), ON_THE_BUS) if c.status != "ok"]
    assert only.status == "warn"
    assert "0000:27:00.0 (no driver)" in only.detail
    assert only.hint == families()["furiosa"].install


def test_a_missing_package_names_the_command_unless_another_environment_has_it():
    (only,) = [c for c in checks(report(CARD), installed={}) if c.status != "ok"]
    assert "pip install 'furiosa-smi>=2026.1'" in only.hint
    elsewhere = {"SHARDYARD_PYTHON_FURIOSA": "/opt/furiosa/bin/python"}
    found = checks(report(CARD), installed={}, environment=elsewhere)
    assert {c.status for c in found} == {"ok"}


def test_a_package_that_pypi_does_not_have_names_its_index():
    (only,) = [c for c in checks(report(RBLN), installed={}) if c.status != "ok"]
    assert "pip install 'rebel-compiler>=0.10' from Rebellions' own index" in only.hint
    old = {"rebel-compiler": "0.1", "vllm-rbln": "0.1"}
    first, other = [c.hint for c in checks(report(RBLN), installed=old) if c.status != "ok"]
    assert "own index" in first
    assert "own index" not in other


def test_an_old_package_and_an_old_driver_are_named():
    told = report(CARD, facts=(DeviceFacts(device=CARD.id, family="furiosa", driver="2024.2.1"),))
    package, driver = [
        c for c in checks(told, installed={"furiosa-smi": "2025.3.0"}) if c.status != "ok"
    ]
    assert "furiosa-smi 2025.3.0, supported is >=2026.1" in package.detail
    assert "driver 2024.2.1, supported is >=2025.1" in driver.detail


def test_the_version_of_a_driver_is_read_without_any_device():
    machine = FakeHost(
        {
            f"{FUNCTION}/vendor": "0x10de\n",
            f"{FUNCTION}/device": "0x2330\n",
            f"{FUNCTION}/class": "0x030200\n",
            "/sys/module/nvidia/version": "470.82.01\n",
        }
    )
    found = checks(report(), machine, {"nvidia-ml-py": "12.560"})
    assert any("driver 470.82.01, supported is >=535" in c.detail for c in found)


def test_a_device_file_that_is_closed_names_the_group():
    node = families()["furiosa"].nodes[0]
    machine = replace(ON_THE_BUS, denied=frozenset({node}))
    (only,) = [c for c in checks(report(CARD), machine) if c.status == "fail"]
    assert node in only.detail
    assert "sudo usermod -aG furiosa $USER" in only.hint


def test_what_a_probe_said_of_a_device_file_is_not_said_twice():
    node = families()["furiosa"].nodes[0]
    machine = replace(ON_THE_BUS, denied=frozenset({node}))
    broken = BrokenProbe(name="furiosa", reason=f"{node}: permission denied", hint="do this")
    found = checks(report(broken=(broken,)), machine)
    assert [c.detail for c in found if node in c.detail] == [broken.reason]


def test_rays_blindness_is_explained_and_needs_nothing():
    found = checks(report(CARD), modules=False)
    (only,) = [c for c in found if "Ray" in c.detail]
    assert only.status == "ok"
    assert "furiosa_smi_py" in only.detail


RBLN = replace(CARD, device_class="RBLN_ATOM", identity="rebellions:1@0000:27:00.0")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RBLN_DEVICES": "0", "RBLN_VISIBLE_DEVICES": "1"}, ["unset RBLN_DEVICES"]),
        ({"RBLN_DEVICES": "1", "RBLN_VISIBLE_DEVICES": "1"}, []),
        ({"RBLN_DEVICES": "1"}, []),
        ({}, []),
    ],
)
def test_variables_that_contradict_each_other(environment, named):
    found = checks(report(RBLN), installed={"rebel-compiler": "0.10.1"}, environment=environment)
    assert [c.hint for c in found if c.status == "warn"] == named


def test_a_containers_choice_of_all_devices_contradicts_nothing():
    card = replace(CARD, device_class="NVIDIA_L4_24G", identity="nvidia:GPU-1@0000:27:00.0")
    environment = {"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "0"}
    found = checks(report(card), installed={"nvidia-ml-py": "13"}, environment=environment)
    assert {c.status for c in found} == {"ok"}


def test_a_device_that_is_not_well_shows_its_evidence():
    ill = replace(CARD, health=Health.DEGRADED)
    told = report(ill, facts=(DeviceFacts(device=CARD.id, evidence=("PE 3 failed",)),))
    (only,) = [c for c in checks(told) if c.status != "ok"]
    assert only.detail == "n/0 is degraded: PE 3 failed"


def test_everything_broken_is_listed_once():
    broken = (
        BrokenProbe(name="third (their.probe:Probe)", reason="its import failed: ImportError"),
        BrokenProbe(name="engine openvino", reason="openvino_genai is not installed"),
        BrokenProbe(name="engine theirs", reason="x is not installed", hint="pip install x"),
    )
    found = checks(report(broken=broken), installed={}, said=frozenset({"engine openvino"}))
    assert [c.check for c in found if c.status == "warn"] == [broken[0].name, "engine theirs"]


@pytest.fixture
def a_broken_plugin(tmp_path, monkeypatch):
    """A distribution whose probe cannot be imported."""
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[shardyard.probes]\nthird = nowhere.probe:Probe\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins.cache_clear()
    yield "third (nowhere.probe:Probe)"
    load_plugins.cache_clear()


def test_a_broken_plugin_is_in_what_doctor_says(a_broken_plugin, tmp_path):
    found = list(doctor.examine(load_settings({"SHARDYARD_STATE": str(tmp_path / "state")})))
    (only,) = [c for c in found if c.check == a_broken_plugin]
    assert (only.status, only.hint) == ("warn", "reinstall or uninstall it")
    assert "nowhere" in only.detail


def test_a_name_that_cannot_be_a_nodes_is_a_failure_and_not_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARDYARD_NODE", "a/b")
    found = list(doctor.examine(load_settings({"SHARDYARD_STATE": str(tmp_path)})))
    assert [c.check for c in found if c.status == "fail"] == ["probes"]
    assert found[-1].check == "disk"


@pytest.mark.parametrize(
    ("version", "wanted", "holds"),
    [
        ("2.0", ">=2", True),
        ("1.9.9", ">=2", False),
        ("0.10.1", ">=0.9", True),
        ("13.615.71", ">=12.535", True),
        ("2.5", ">=2,<2.5", False),
        ("2.0.0", "==2", True),
        ("v3.1-rc1", ">=3.1", True),
        ("", ">=1", None),
        ("1.0", "~=1.0", None),
    ],
)
def test_ranges(version, wanted, holds):
    assert within(version, wanted) is holds


def test_every_range_of_the_families_can_be_read():
    for family in families().values():
        for wanted in (*family.packages.values(), *([family.driver] if family.driver else [])):
            assert within("1.0", wanted) is not None, (family.name, wanted)


@pytest.mark.parametrize("host", [None, "env = 3"])
def test_a_recording_that_is_none_is_a_failure_and_not_the_end(host, tmp_path, monkeypatch):
    tape = tmp_path / "tape"
    if host is not None:
        tape.mkdir()
        (tape / "host.toml").write_text(host)
    monkeypatch.setenv("SHARDYARD_RECORDING", str(tape))
    found = list(doctor.examine(load_settings({"SHARDYARD_STATE": str(tmp_path)})))
    (only,) = [c for c in found if c.status == "fail"]
    assert only.check == "probes"
    assert str(tape) in only.detail
    assert "shardyard capture" in only.hint
    assert found[-1].check == "disk"


def test_a_recorded_machine_is_examined_instead_of_this_one(tmp_path, monkeypatch):
    tape = RECORDINGS / "nvidia" / "synthetic-broken-cards"
    monkeypatch.setenv("SHARDYARD_RECORDING", str(tape))
    found = list(doctor.examine(load_settings({"SHARDYARD_STATE": str(tmp_path)})))
    details = [c.detail for c in found if c.check == "nvidia"]
    assert any("is lost: the driver has lost the card" in detail for detail in details)
    (ours,) = [c for c in found if c.check == "environment"]
    assert ours.status == "ok", "what probes read is no unknown variable"


def test_a_plugin_that_raises_is_one_line_and_no_traceback(tmp_path):
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[shardyard.probes]\nodd = theirs_odd:Odd\n")
    (tmp_path / "theirs_odd.py").write_text(
        "class Odd:\n"
        "    name = 'odd'\n"
        "    def probe(self, host, node):\n"
        "        key = 'sesame'\n"
        "        raise RuntimeError('no card')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", "doctor"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SHARDYARD_STATE": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert "raised RuntimeError: no card" in done.stdout
    assert "RuntimeError: no card" in done.stderr
    assert "Traceback" not in done.stderr
    assert "sesame" not in done.stderr


def test_a_probe_that_cannot_be_made_spoils_no_recording(a_broken_maker):
    text = f"nodes:\n  n1: {{emulated: true, recording: {RECORDINGS}/furiosa/synthetic-4-cards}}\n"
    (node,) = parse_inventory(text, "lab.yaml").nodes
    assert len(node.devices) == 4


@pytest.fixture
def a_broken_maker(tmp_path, monkeypatch):
    """A distribution whose probe raises when it is made."""
    info = tmp_path / "makers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: makers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[shardyard.probes]\nmade = makers_odd:Made\n")
    (tmp_path / "makers_odd.py").write_text(
        "class Made:\n"
        "    name = 'made'\n"
        "    def __init__(self):\n"
        "        raise ValueError('no')\n"
        "    def probe(self, host, node):\n"
        "        return None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()
