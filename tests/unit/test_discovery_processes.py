"""Vendors' tools as real processes that misbehave, beside a vendor whose devices must stay."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from conformance.test_probes import built_in
from support.hosts import RECORDINGS, gone

from actors.host import RealHost, RecordedHost
from actors.library import Libraries
from actors.prober import PROBE_DEADLINE_S, Prober
from actors.report import NodeReport
from placement.ids import NodeId

NODE = NodeId("n-1")
BESIDE = ("upmem", "synthetic-two-dimms")

VENDORS = {
    "ascend": ("synthetic-910b2-8", "npu-smi"),
    "gaudi": ("synthetic-gaudi2-8", "hl-smi"),
    "rebellions": ("synthetic-atom-max-2x4", "rbln-smi"),
    "intel-gpu": ("synthetic-arc-pair-i915", "xpu-smi"),
    "tenstorrent": ("synthetic-wormhole-old-driver", "tt-smi"),
    "furiosa": ("synthetic-4-cards", "furiosa-smi"),
}
BEHAVIOURS = {
    "hangs": "sleep 600 & echo $! >> '{pids}'; wait",
    "hangs and ignores signals": "trap '' TERM INT HUP; while :; do sleep 600; done",
    "floods": "exec head -c 100000000 /dev/zero",
    "speaks latin-1 in colours": r"printf '\033[31m\351t\351 \260C\033[0m\n'",
    "fails": "echo no driver >&2; exit 3",
    "says nothing": "exit 0",
}


class NoLibraries(Libraries):
    """A machine without any vendor's Python package."""

    def ask(self, library, question, timeout_s):
        return None


@dataclass(frozen=True)
class Attack:
    """A machine of a vendor whose tool misbehaves, and what came of a look at it."""

    vendor: str
    behaviour: str
    report: NodeReport
    seconds: float
    pids: tuple[int, ...]


def root_of(folder: Path, vendor: str, name: str) -> Path:
    """Both vendors' files in one tree; a vendor's own files are hidden where they would spare it the tool."""
    root = folder / "root"
    for family, machine in ((vendor, name), BESIDE):
        place = RECORDINGS / family / machine
        for part in ("sys", "dev", "proc", "etc"):
            if (place / part).is_dir():
                shutil.copytree(place / part, root / part, symlinks=True, dirs_exist_ok=True)
        for path in RecordedHost(place).facts.get("access", {}):
            (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (root / path.lstrip("/")).touch()
    for hidden in (root / "sys/class/rngd_mgmt").glob("*/busname"):
        hidden.unlink()
    return root


def machine(folder: Path, vendor: str, behaviour: str) -> RealHost:
    name, tool = VENDORS[vendor]
    tools = folder / "tools"
    tools.mkdir(parents=True)
    pids = folder / "pids"
    script = tools / tool
    script.write_text(
        f"#!/bin/sh\necho $$ >> '{pids}'\n{BEHAVIOURS[behaviour].format(pids=pids)}\n"
    )
    script.chmod(0o755)
    return RealHost(
        root=root_of(folder, vendor, name), tool_directories=(str(tools),), libraries=NoLibraries()
    )


def attacked(folder: Path, host: RealHost, vendor: str, behaviour: str) -> Attack:
    began = time.monotonic()
    report = Prober(host, NODE, [probe() for probe in built_in()]).refresh()
    seconds = time.monotonic() - began
    pids = tuple(map(int, (folder / "pids").read_text().split()))
    return Attack(vendor, behaviour, report, seconds, pids)


@pytest.fixture(scope="module")
def attacks(tmp_path_factory) -> list[Attack]:
    """All of them side by side: most of their time is the tools' deadlines."""
    folder = tmp_path_factory.mktemp("attacks")
    cases = [(folder / f"{v} {b}", v, b) for v in VENDORS for b in BEHAVIOURS]
    # All are written before any runs: a script that is open for writing in another thread's child cannot be run.
    hosts = [machine(*case) for case in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        made = [
            pool.submit(attacked, place, host, vendor, behaviour)
            for (place, vendor, behaviour), host in zip(cases, hosts, strict=True)
        ]
        return [future.result() for future in made]


def test_each_vendor_says_what_is_wrong_and_what_mends_it(attacks):
    for attack in attacks:
        own = [b for b in attack.report.broken if b.name == attack.vendor]
        assert own, (attack.vendor, attack.behaviour)
        assert all(b.reason and b.hint and "\x1b" not in b.reason for b in own)
        assert not any("no answer within" in b.reason for b in own), "within its own deadline"


def test_no_look_takes_longer_than_the_probers_deadline(attacks):
    assert max(attack.seconds for attack in attacks) < PROBE_DEADLINE_S + 2.0


def test_nothing_of_a_tool_is_left(attacks):
    pids = [pid for attack in attacks for pid in attack.pids]
    assert len(pids) >= len(VENDORS) * len(BEHAVIOURS)
    assert all(gone(pid) for pid in pids)


def test_the_devices_of_the_other_vendor_stay(attacks):
    for attack in attacks:
        there = [d for d in attack.report.devices if d.identity.startswith(f"{BESIDE[0]}:")]
        assert len(there) == 4, (attack.vendor, attack.behaviour)


def test_links_that_lead_nowhere_or_in_circles_are_no_devices(tmp_path):
    for path in (
        "sys/bus/pci/devices/0000:3b:00.0",
        "sys/class/rngd_mgmt",
        "sys/class/rebellions/rbln0",
        "sys/class/kfd",
        "dev/rbln0",
        "dev/kfd",
        "proc/driver/nvidia/version",
        "dev/nvidiactl",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).symlink_to((tmp_path / path).name)
    host = RealHost(root=tmp_path, tool_directories=(), libraries=NoLibraries())
    report = Prober(host, NODE, [probe() for probe in built_in()]).refresh()
    assert report.devices == ()
    assert not any(b.reason.startswith("raised") for b in report.broken)
    assert "rebellions" in {b.name for b in report.broken}, "its driver's folder is there"
