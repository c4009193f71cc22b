"""How Ray's processes are started: our labels, our devices, and nothing of Ray's own guess."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

import pytest
import ray._private.accelerators as guesses
from support.hosts import FakeHost

from actors.double_offers import with_double_offers
from actors.names import EMULATE_ENV, PROBES_ENV, RECORDING_ENV, STAND_IN_ENV
from actors.node_labels import labels_of
from actors.probe import Accelerator, Found
from actors.prober import Prober
from actors.stand_in import StandIn
from actors.vendors import families, visibility
from orchestrator.labelled_start import labelled
from orchestrator.raylets import NodeSettings, RaySettings, ray_environment, worker_command
from placement.ids import NodeId

SHARED = RaySettings(run_id="r", temp_dir=Path("/tmp/x"), token_path=None)


def rays_own_words(suffix: str) -> set[str]:
    """The values of Ray's constants whose names end so, over all of its accelerator modules."""
    modules = (f"{guesses.__name__}.{m.name}" for m in pkgutil.iter_modules(guesses.__path__))
    constants = [vars(importlib.import_module(name)) for name in modules]
    return {
        value
        for names in constants
        for name, value in names.items()
        if name.endswith(suffix) and isinstance(value, str)
    }


def test_every_variable_that_keeps_ray_from_guessing_is_one_that_ray_reads():
    ours = {f.ray.noset for f in families().values() if f.ray is not None}
    theirs = {word for word in rays_own_words("_ENV_VAR") if "NOSET" in word}
    assert ours <= theirs
    env = ray_environment({}, SHARED, NodeSettings(name="n"))
    assert {name for name in env if "NOSET" in name} == ours
    assert {env[name] for name in ours} == {"1"}


def test_ray_counts_no_accelerator_by_itself():
    command = worker_command(NodeSettings(name="n"), address="h:1", agent_port=1)
    assert "--num-gpus=0" in command
    (given,) = [json.loads(w.split("=", 1)[1]) for w in command if w.startswith("--resources=")]
    assert set(given.values()) == {0}
    named = {f.ray.resource for f in families().values() if f.ray is not None}
    assert named - {"GPU"} == set(given)


def test_a_node_that_replays_or_stands_in_says_so_to_its_agent():
    recorded = ray_environment({}, SHARED, NodeSettings(name="n", recording="/r"))
    assert recorded[RECORDING_ENV] == "/r"
    assert recorded[EMULATE_ENV] == recorded[STAND_IN_ENV] == ""
    stand_in = StandIn(environment={"LD_LIBRARY_PATH": "/lib-x", "A": "1"}, prefix=("wrap", "--"))
    node = NodeSettings(name="n", probes="nvidia", stand_in=stand_in)
    env = ray_environment({"LD_LIBRARY_PATH": "/own"}, SHARED, node)
    assert env["LD_LIBRARY_PATH"] == "/lib-x:/own"
    assert (env["A"], env[STAND_IN_ENV], env[PROBES_ENV]) == ("1", "1", "nvidia")
    assert worker_command(node, address="h:1", agent_port=1)[:2] == ["wrap", "--"]


def test_what_an_operator_sets_counts_on_a_real_node_and_not_in_a_lab():
    mine = {PROBES_ENV: "nvidia", RECORDING_ENV: "/r"}
    real = ray_environment(mine, SHARED, NodeSettings(name="n"))
    assert (real[PROBES_ENV], real[RECORDING_ENV]) == ("nvidia", "/r")
    declared = ray_environment(mine, SHARED, NodeSettings(name="n", emulate="{}"))
    assert (declared[PROBES_ENV], declared[RECORDING_ENV]) == ("", "")


def test_labels_name_each_family_and_its_most_frequent_class():
    cards = [
        Accelerator(
            family=family,
            product="p",
            device_class=name,
            serial=f"{family}{k}",
            memory_bytes=2**34,
        )
        for family, name, count in (
            ("nvidia", "NVIDIA_T4_16G", 1),
            ("nvidia", "NVIDIA_L4_24G", 2),
            ("rebellions", "RBLN_ATOM", 1),
        )
        for k in range(len(name), len(name) + count)
    ]

    class Probe:
        name = "some"

        def probe(self, host, node):
            return Found(accelerators=tuple(cards))

    report = Prober(FakeHost(), NodeId("n"), [Probe()]).report()
    assert labels_of(report) == {
        "shardyard.io/nvidia": "NVIDIA_L4_24G",
        "shardyard.io/rebellions": "RBLN_ATOM",
    }


def test_labels_join_those_that_are_given():
    assert labelled(["ray", "start"], {}) == ["ray", "start"]
    assert labelled(["ray", "--labels=a=1"], {"b": "2"})[-1] == "--labels=b=2,a=1"


@pytest.mark.parametrize("family", sorted(families()))
def test_an_engine_of_a_family_is_told_its_devices_in_one_way_only(family):
    given, gone = visibility(family, ["x", "y"])
    rule = families()[family].visible
    if rule.variable:
        assert given[rule.variable] == "x,y"
    assert not set(given) & gone
    assert set(rule.clear) <= gone | {v for f in families().values() for v in [f.visible.variable]}
    others = {f.visible.variable: f.visible.hides for n, f in families().items() if n != family}
    for variable, hides in others.items():
        if variable and variable != rule.variable:
            assert given.get(variable, "-") == hides or variable in gone


def test_devices_that_ray_gives_out_by_itself_are_a_problem():
    card = Accelerator(
        family="nvidia", product="p", device_class="NVIDIA_T4_16G", uuid="GPU-1", memory_bytes=2**34
    )

    class Probe:
        name = "nvidia"

        def probe(self, host, node):
            return Found(accelerators=(card,))

    report = Prober(FakeHost(), NodeId("n"), [Probe()]).report()
    (problem,) = with_double_offers(report, {"GPU": 4.0, "FURIOSA": 2.0, "CPU": 8.0}).broken
    assert "4 GPU" in problem.reason
    assert "--num-gpus=0" in problem.hint
    for offers in ({}, {"GPU": 0.0}, {"FURIOSA": 2.0}):
        assert with_double_offers(report, offers) == report
