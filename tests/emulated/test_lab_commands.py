"""The command line against a live lab, and what Ray's own tools show of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.lab import LAB, LAB_SPEC, QUICKSTART, ROOT, Shardyard, until

NODES = ("atom-1", "cpu-1", "gpu-1", "rngd-1")
ONE_MORE = """\
nodes:
  extra-1:
    emulated: true
    devices:
      - {class: NVIDIA_L4_24G, count: 1}
"""


def incarnations(yard: Shardyard) -> dict[str, str]:
    return {slot: row["incarnation"] for slot, row in yard.replicas().items()}


def test_up_tells_each_step_and_what_to_type(lab) -> None:
    assert [f"emulated node {n} joined" in lab.said for n in NODES] == [True] * 4
    assert "planned 4 replicas" in lab.said
    assert f"curl -N {lab.endpoint}/chat/completions" in lab.said


def test_devices_lists_every_node(lab) -> None:
    table = lab.yard.run("devices")
    assert all(node in table for node in NODES)
    inventory = lab.yard.json("devices")["inventory"]
    assert {n["id"] for n in inventory["nodes"]} >= set(NODES)


def test_the_dumped_inventory_plans_like_the_live_one(lab, short_dir) -> None:
    dumped = short_dir / "inventory.yaml"
    dumped.write_text(lab.yard.run("devices", "-o", "yaml"))
    document = lab.yard.json("plan", "--inventory", dumped, LAB_SPEC)
    assert document["feasible"]
    assert len(document["slots"]) == 4


def test_ps_and_status_say_what_runs(lab) -> None:
    rows = lab.yard.replicas()
    assert {row["state"] for row in rows.values()} == {"ready"}
    assert {row["node"] for row in rows.values()} == set(NODES)
    assert all(row["emulated"] for row in rows.values())
    assert "EMULATED" in lab.yard.run("ps")
    status = lab.yard.json("status")
    assert (status["state"], status["nodes"], status["problems"]) == ("serving", 5, [])
    assert lab.endpoint in lab.yard.run("status")


def test_a_plan_of_what_runs_changes_nothing(lab) -> None:
    before = incarnations(lab.yard)
    said = lab.yard.run("plan", LAB_SPEC, "--explain")
    assert "gpu-1" in said
    assert incarnations(lab.yard) == before


def test_explain_knows_slots_and_refuses_strangers(lab) -> None:
    assert "atom-1" in lab.yard.run("explain")
    assert "smollm2/r0" in lab.yard.run("explain", "smollm2/r0")
    assert "hint:" in lab.yard.run("explain", "nobody", code=2)


@pytest.mark.parametrize("name", ["gpu-1", "controller", "gateway"])
def test_logs_prints_the_events(lab, name: str) -> None:
    assert '"event"' in lab.yard.run("logs", name, "-n", 20)


def test_logs_of_a_replica_and_of_nobody(lab) -> None:
    assert '"event"' in lab.yard.run("logs", "smollm2/r0")
    assert "nobody" in lab.yard.run("logs", "nobody", code=2)


def test_run_asks_the_model(lab) -> None:
    assert lab.yard.run("run", "smollm2", "hello", "--max-tokens", 5).strip()


def test_a_second_up_is_apply(lab) -> None:
    before = incarnations(lab.yard)
    assert "applied" in lab.yard.run("up", LAB_SPEC)
    assert incarnations(lab.yard) == before


@pytest.mark.parametrize("words", [["--foreground", LAB_SPEC], ["--lab", LAB]])
def test_another_cluster_in_the_same_state_is_refused(lab, words: list[object]) -> None:
    said = lab.yard.run("up", *words, code=2)
    assert "running already" in said
    assert "shardyard down" in said


def test_a_port_of_another_cluster_is_taken(lab, short_dir) -> None:
    other = Shardyard(short_dir / "state")
    said = other.run("up", QUICKSTART, "--port", lab.port, code=2)
    assert f":{lab.port}" in said
    assert "--port" in said
    assert not (other.state / "run.json").exists()
    assert "nothing is running" in other.run("down")


def test_scale_changes_nothing_else(lab) -> None:
    before = incarnations(lab.yard)
    lab.yard.run("scale", "smollm2", 3)

    def three() -> bool:
        return len(lab.yard.replicas()) == 3

    until(three, 45.0, "three replicas")
    fewer = incarnations(lab.yard)
    assert fewer.items() <= before.items()
    lab.yard.run("scale", "smollm2", 4)
    again = incarnations(lab.yard)
    assert len(again) == 4
    assert fewer.items() <= again.items()


def test_apply_of_an_impossible_spec_changes_nothing(lab, short_dir) -> None:
    before = incarnations(lab.yard)
    impossible = short_dir / "app.yaml"
    impossible.write_text(LAB_SPEC.read_text().replace("replicas: 4", "replicas: 40"))
    assert "infeasible" in lab.yard.run("apply", impossible, code=3)
    assert "infeasible" in lab.yard.run("plan", impossible, code=3)
    assert incarnations(lab.yard) == before
    assert lab.yard.json("status")["state"] == "serving"


def test_apply_of_what_runs_restarts_nothing(lab) -> None:
    before = incarnations(lab.yard)
    lab.yard.run("apply", LAB_SPEC)
    assert incarnations(lab.yard) == before


def test_a_users_folder_called_actors_disturbs_no_command(lab, short_dir) -> None:
    for name in ("actors", "placement"):
        (short_dir / name).mkdir()
        (short_dir / name / "__init__.py").write_text("raise RuntimeError('not mine')\n")
    assert "serving" in lab.yard.run("status", cwd=short_dir)
    lab.yard.run("plan", "--inventory", LAB, LAB_SPEC, cwd=short_dir)


def test_ray_lists_one_agent_per_living_node(lab) -> None:
    nodes = lab.yard.json("status")["nodes"]
    said = lab.yard.ray("list", "actors", "--limit", 200, "--filter", "state=ALIVE")
    assert said.count(" _NodeAgent ") == nodes
    assert said.count(" _ControllerHost ") == 1


def test_ray_status_shows_classes_and_devices(lab) -> None:
    address = lab.yard.record().address

    def shown() -> str:
        said = lab.yard.ray("status", "--address", address)
        return said if "shardyard_dev_" in said else ""

    said = until(shown, 20.0, "device resources in ray status")
    for resource in ("NVIDIA_H100_80G", "RBLN_ATOM", "FURIOSA_RNGD", "CPU"):
        assert f"{resource}_EMULATED" in said
    claimed = re.findall(r"([\d.]+)/([\d.]+) shardyard_dev_(\S+)", said)
    assert len(claimed) == 9
    assert sum(float(used) > 0 for used, _, _ in claimed) == 4


def test_rays_tools_need_the_token(lab) -> None:
    address = lab.yard.record().address
    words = [str(ROOT / ".venv/bin/ray"), "status", "--address", address]
    refused = lab.yard.execute(words, timeout_s=60, cwd=ROOT, env={"RAY_AUTH_MODE": "disabled"})
    assert refused.returncode != 0


def test_a_node_joins_and_leaves(lab, short_dir: Path) -> None:
    before = lab.yard.json("devices")["inventory"]
    described = short_dir / "lab.yaml"
    described.write_text(ONE_MORE)
    tools = lab.yard.json("status")["ray_tools"].split()
    other = Shardyard(short_dir / "state")
    other.env |= dict(word.split("=", 1) for word in tools if word.startswith("RAY_AUTH"))

    def seen(node: str, *, expected: bool) -> dict:
        found = lab.yard.json("devices")["inventory"]
        return found if (node in {n["id"] for n in found["nodes"]}) == expected else {}

    address = lab.yard.record().address
    start = ("node", "start", "--address", address, "--name", "extra-1", "--emulate", described)
    try:
        other.run(*start)
        joined = until(lambda: seen("extra-1", expected=True), 20.0, "the node in devices")
        assert joined["generation"] > before["generation"]
    finally:
        other.run("node", "stop")
    left = until(lambda: seen("extra-1", expected=False), 30.0, "the node gone from devices")
    assert left["generation"] > joined["generation"]
    # A replica may have moved to the new node and back again.
    until(lambda: lab.yard.attempt("status")[0] == 0, 40.0, "everything is ready again")
