"""A lab whose nodes deceive the vendors' own software: what it sees becomes devices, resources, labels and metrics, and
what happens to a card changes them once.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.lab import LAB, UP_S, Shardyard, left_over, until

from actors import stand_in
from actors.health import LOST_AFTER_S, PROBATION_S
from actors.standins import furiosa, nvidia
from orchestrator.sockets import free_port

SEEN_S = 30.0
"""Generous for a busy machine; what is asserted is what happened, not how fast."""


@dataclass(frozen=True)
class VendorLab:
    yard: Shardyard
    folder: Path

    def document(self) -> dict[str, Any]:
        with self.yard.control() as client:
            return client.inventory_document()

    def devices(self) -> dict[str, dict[str, Any]]:
        nodes = self.document()["inventory"]["nodes"]
        return {device["id"]: device for node in nodes for device in node["devices"]}

    def generation(self) -> int:
        return self.document()["inventory"]["generation"]

    def health(self, device: str) -> str:
        return self.devices()[device]["health"]

    def becomes(self, device: str, health: str) -> None:
        until(lambda: self.health(device) == health, SEEN_S + PROBATION_S, f"{device} {health}")


@pytest.fixture(scope="module")
def vendors() -> Iterator[VendorLab]:
    for family in ("nvidia", "rebellions", "furiosa"):
        if reason := stand_in.missing(family):
            pytest.skip(f"the stand-in of {family} does not work here: {reason}")
    with tempfile.TemporaryDirectory(prefix="sy-", ignore_cleanup_errors=True) as folder:
        place, port = Path(folder), free_port()
        yard = Shardyard(place)
        try:
            yard.run("up", "--lab", LAB, "--level", "library", "--port", port, timeout_s=UP_S)
            run = yard.record()
            yield VendorLab(yard, Path(run.temp_dirs[0]))
        finally:
            yard.run("down")
        assert left_over(run, port) == []
        assert not Path("/dev/rngd").exists()


def test_what_the_vendors_software_sees_are_the_devices(vendors) -> None:
    devices = vendors.devices()
    assert {name: d["device_class"] for name, d in devices.items()} == {
        "cpu-1/cpu0": "CPU",
        **{f"gpu-1/{k}": "NVIDIA_H100_80G" for k in range(2)},
        **{f"atom-1/{k}": "RBLN_ATOM" for k in range(4)},
        **{f"rngd-1/{k}": "FURIOSA_RNGD" for k in range(2)},
    }
    assert all(d["emulated"] and d["health"] == "healthy" for d in devices.values())
    assert devices["gpu-1/0"]["handle"].startswith("GPU-")
    assert devices["rngd-1/1"]["handle"] == "npu:1"
    facts = {f["device"]: f for f in vendors.document()["facts"]}
    assert facts["rngd-1/0"]["uuid"] in devices["rngd-1/0"]["identity"]
    assert facts["rngd-1/0"]["serial"].startswith("RNG")
    readings = vendors.document()["readings"]
    assert all(readings[name]["power_w"] for name in devices if name != "cpu-1/cpu0")
    table = vendors.yard.run("devices")
    assert "EMULATED" in table
    assert " W" in table


def test_the_model_is_served_from_all_of_them(vendors) -> None:
    until(
        lambda: {r["state"] for r in vendors.yard.replicas().values()} == {"ready"},
        SEEN_S,
        "ready replicas",
    )
    assert {r["node"] for r in vendors.yard.replicas().values()} == {
        "atom-1",
        "cpu-1",
        "gpu-1",
        "rngd-1",
    }
    assert "EMULATED" in vendors.yard.run("ps")


NODES = """
import json, ray
ray.init(address="{address}", namespace="shardyard", log_to_driver=False, configure_logging=False)
totals = ray._private.state.total_resources_per_node()
print(json.dumps([[r["Labels"], totals[r["NodeID"]], r["MetricsExportPort"]] for r in ray.nodes()]))
"""
FORGE = """
import json, ray
from dataclasses import replace
from actors.report import NodeReport, Versions
ray.init(address="{address}", namespace="shardyard", log_to_driver=False, configure_logging=False)
ids = [r["NodeID"] for r in ray.nodes() if r["Labels"].get("shardyard.io/node") == "gpu-1"]
lie = NodeReport(node="gpu-1", hostname="x", versions=Versions(shardyard="0", code="0", python="3"), incarnation=ids[0])
try:
    ray.get(ray.get_actor("shardyard-controller").report.remote(lie, "guess"), timeout=20)
except Exception as error:
    print(json.dumps(str(error)))
"""


def in_ray(vendors: VendorLab, code: str) -> Any:
    words = vendors.yard.json("status")["ray_tools"].split()
    env = dict(word.split("=", 1) for word in words if word.startswith("RAY_"))
    address = vendors.yard.record().address
    text = vendors.yard.execute(
        [sys.executable, "-c", code.format(address=address)],
        timeout_s=60.0,
        cwd=Path(__file__).resolve().parents[2],
        env=env,
    )
    assert text.returncode == 0, text.stderr
    return json.loads(text.stdout.strip().splitlines()[-1])


def test_ray_has_our_resources_and_labels_and_none_of_its_own_guess(vendors) -> None:
    rows = {labels["shardyard.io/node"]: (labels, r) for labels, r, _ in in_ray(vendors, NODES)}
    labels, resources = rows["gpu-1"]
    assert labels["shardyard.io/nvidia"] == "NVIDIA_H100_80G"
    assert labels["shardyard.io/emulated"] == "true"
    assert resources["NVIDIA_H100_80G_EMULATED"] == 2.0
    assert resources["shardyard_dev_gpu-1_0"] == resources["shardyard_dev_gpu-1_1"] == 1.0
    labels, resources = rows["rngd-1"]
    assert labels["shardyard.io/furiosa"] == "FURIOSA_RNGD"
    assert resources["FURIOSA_RNGD_EMULATED"] == 2.0
    labels, resources = rows["atom-1"]
    assert labels["shardyard.io/rebellions"] == "RBLN_ATOM"
    assert resources["RBLN_ATOM_EMULATED"] == 4.0
    guessed = {"GPU", "FURIOSA", "RBLN", "NPU", "TPU", "HPU"}
    for _, resources in rows.values():
        assert not {name for name, amount in resources.items() if name in guessed and amount}


def test_ray_offers_the_readings_to_prometheus(vendors) -> None:
    ports = [
        port
        for labels, _, port in in_ray(vendors, NODES)
        if labels["shardyard.io/node"] == "rngd-1"
    ]

    def scraped() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        lines = [line for line in text.splitlines() if "shardyard_device_power_watts{" in line]
        return "\n".join(line for line in lines if 'device="rngd-1/0"' in line)

    line = until(scraped, SEEN_S, "the power of rngd-1/0")
    assert 'device_class="FURIOSA_RNGD"' in line
    assert line.rpartition(" ")[2] == "38.0"


def test_a_report_that_is_not_the_agents_own_is_refused(vendors) -> None:
    before = vendors.devices()
    said = in_ray(vendors, FORGE)
    assert "does not come from the agent" in said
    assert vendors.devices() == before


def test_a_card_that_overheats_gets_no_work_until_it_has_proved_itself(vendors) -> None:
    place = vendors.folder / "node-gpu-1/cards.txt"
    cards = nvidia.cards("NVIDIA_H100_80G", 2, seed=str(place.parent))
    used = next(r for r in vendors.yard.replicas().values() if r["node"] == "gpu-1")["devices"][0]
    index = int(used.rpartition("/")[2])
    before = vendors.generation()
    hot = tuple(replace(c, temperature_c=120) if k == index else c for k, c in enumerate(cards))
    nvidia.write(place, hot)
    vendors.becomes(used, "degraded")
    assert vendors.generation() == before + 1
    evidence = {f["device"]: f["evidence"] for f in vendors.document()["facts"]}
    assert "hotter than its limit" in evidence[used][0]
    assert "hotter than its limit" in vendors.yard.run("devices")
    moved = until(
        lambda: [
            r
            for r in vendors.yard.replicas().values()
            if r["node"] == "gpu-1" and used not in r["devices"] and r["state"] == "ready"
        ],
        2 * SEEN_S,
        "the replica on the other card",
    )
    assert moved
    nvidia.write(place, cards)
    vendors.becomes(used, "healthy")
    assert vendors.generation() == before + 2


def test_a_card_that_is_pulled_is_lost_once_and_its_resource_is_withdrawn(vendors) -> None:
    tree = vendors.folder / "node-rngd-1"
    cards = furiosa.cards(2)
    before = vendors.generation()
    furiosa.remove(tree, cards[1])
    vendors.becomes("rngd-1/1", "lost")
    assert vendors.generation() == before + 1
    rows = {labels["shardyard.io/node"]: r for labels, r, _ in in_ray(vendors, NODES)}
    assert not rows["rngd-1"].get("shardyard_dev_rngd-1_1")
    assert rows["rngd-1"]["FURIOSA_RNGD_EMULATED"] == 1.0
    furiosa.write(tree, cards)
    vendors.becomes("rngd-1/1", "healthy")
    assert vendors.generation() == before + 2
    assert vendors.devices()["rngd-1/1"]["handle"] == "npu:1"


def test_the_agent_sees_a_loss_within_its_stated_time() -> None:
    assert LOST_AFTER_S + 2.0 <= 5.0, "polls come each second"
