"""FuriosaAI's own libraries on a pretended machine: they, Ray's detection and our probe must see the same cards.

Needs root, and `furiosa-smi` and `furiosa-smi-py` in this environment or in that of `SHARDYARD_PYTHON_FURIOSA`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from actors.standins import furiosa, namespace

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("SHARDYARD_PYTHON_FURIOSA")
TIMEOUT_S = 60

SITE = "import {0}, os; print(os.path.dirname(os.path.dirname({0}.__file__)))"

OURS = """
import dataclasses, json
from actors.host import RealHost
from actors.probes.furiosa import FuriosaProbe
host, probe = RealHost(), FuriosaProbe()
found = probe.probe(host, "n")
readings = probe.poll(host, found)
links = {f"{a}|{b}": link.kind for (a, b), link in found.links.items()}
print(json.dumps({
    "cards": [{**dataclasses.asdict(a), **dataclasses.asdict(readings[a.identity])} for a in found.accelerators],
    "links": links,
    "broken": [b.reason for b in found.broken],
}))
"""

RAYS = """
import sys
sys.path.append(sys.argv[1])
from ray._private.accelerators.furiosa import FuriosaAcceleratorManager as manager
print(manager.get_current_node_num_accelerators(), manager.get_current_node_accelerator_type())
"""


@cache
def site_of(module: str) -> str | None:
    """The folder that a vendor's module is installed in; None = it is not."""
    if PYTHON is None:
        spec = importlib.util.find_spec(module)
        return None if spec is None or spec.origin is None else str(Path(spec.origin).parents[1])
    done = subprocess.run(
        [PYTHON, "-c", SITE.format(module)], capture_output=True, text=True, check=False, timeout=30
    )
    return done.stdout.strip() or None


def missing(module: str, package: str) -> str:
    if refused := namespace.reason():
        return refused
    where = PYTHON or "this environment"
    return "" if site_of(module) else f"{package} is not installed in {where}"


def needs(module: str, package: str) -> pytest.MarkDecorator:
    why = missing(module, package)
    return pytest.mark.skipif(bool(why), reason=why or "none")


def inside(machine: Path, *command: str, said: str = "") -> str:
    done = subprocess.run(
        [*namespace.prefix(machine), *command],
        input=said,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def theirs(machine: Path) -> list[dict[str, Any]]:
    child, script = ROOT / "actors/library_child.py", ROOT / "actors/libraries/furiosa.py"
    python = PYTHON or sys.executable
    answer = inside(machine, python, "-P", str(child), str(script), said=json.dumps("cards") + "\n")
    return json.loads(json.loads(answer)["out"])


def ours(machine: Path) -> dict[str, Any]:
    return json.loads(inside(machine, sys.executable, "-c", OURS))


@pytest.fixture
def machine(tmp_path) -> Path:
    """Four cards: one busy, one hot and throttled, one dead, one idle."""
    busy, hot, dead, idle = furiosa.cards(4)
    made = (
        replace(busy, busy=(0, 1, 2, 3), fused=4, used_bytes=8 << 30, power_w=95.0, throttle=0),
        replace(hot, temperature_c=96.5, throttle=0x12, busy=tuple(range(8)), used_bytes=1 << 30),
        replace(dead, state=3),
        idle,
    )
    return furiosa.write(tmp_path / "machine", made)


@needs("furiosa_smi", "furiosa-smi")
def test_the_vendors_library_and_our_probe_agree_on_every_card(machine):
    told = {card["pci"]: card for card in theirs(machine)}
    found = {card["pci"]: card for card in ours(machine)["cards"]}
    assert len(told) == 4
    assert told.keys() == found.keys()
    for address, card in told.items():
        mine = found[address]
        assert mine["handle"] == f"npu:{card['index']}"
        for same in ("uuid", "serial", "numa_node", "product", "power_limit_w", "memory_bytes"):
            assert mine[same] == card[same], (address, same)
        assert mine["temperature_c"] == pytest.approx(card["temperature_c"])
        assert mine["power_w"] == pytest.approx(card["power_w"])
        assert mine["memory_used_bytes"] == card["used_bytes"]
        assert (mine["health"] == "lost") == (card["alive"] is False)
        assert card["firmware"].startswith(mine["firmware"])
        assert card["driver"].startswith(mine["driver"])


@needs("furiosa_smi", "furiosa-smi")
def test_reasons_of_throttling_are_the_vendors(machine):
    told = {card["pci"]: card["throttled"] for card in theirs(machine)}
    found = {card["pci"]: card["throttled"] for card in ours(machine)["cards"]}
    assert told["0000:2a:00.0"] == ["Thermal Slowdown", "HW Clock Cap"]
    assert found["0000:2a:00.0"] == ["thermal", "hardware"]
    assert found["0000:57:00.0"] == []


@needs("furiosa_smi", "furiosa-smi")
def test_cards_below_one_switch_are_a_bridge_to_the_vendor_and_a_switch_to_us(machine):
    told = {
        frozenset((card["pci"], other)): kind.rpartition(".")[2]
        for card in theirs(machine)
        for other, kind in card["links"].items()
    }
    found = {
        frozenset(identity.rpartition("@")[2] for identity in pair.split("|")): kind
        for pair, kind in ours(machine)["links"].items()
    }
    assert told.keys() == found.keys()
    assert {(told[pair], found[pair]) for pair in told} == {("Bridge", "switch"), ("Cpu", "numa")}


@needs("furiosa_smi", "furiosa-smi")
def test_the_later_product_has_the_memory_that_the_vendor_counts(tmp_path):
    machine = furiosa.write(tmp_path / "m", furiosa.cards(1, "FURIOSA_RNGD_PLUS"))
    (card,), (mine,) = theirs(machine), ours(machine)["cards"]
    assert (card["product"], card["memory_bytes"]) == ("RNGD+", 76_772_540_416)
    assert (mine["product"], mine["memory_bytes"]) == ("RNGD+", 76_772_540_416)
    assert mine["device_class"] == "FURIOSA_RNGD_PLUS"


@needs("furiosa_smi", "furiosa-smi")
def test_a_machine_without_cards_has_none_for_both(tmp_path):
    machine = furiosa.tree(tmp_path / "m", 0)
    assert theirs(machine) == []
    answer = "from actors.host import RealHost; from actors.probes.furiosa import FuriosaProbe"
    said = inside(
        machine, sys.executable, "-c", f"{answer}; print(FuriosaProbe().probe(RealHost(), 'n'))"
    )
    assert said == "Absent()\n"


@needs("furiosa_smi_py", "furiosa-smi-py")
@pytest.mark.parametrize(("product", "count"), [("FURIOSA_RNGD", 4), ("FURIOSA_RNGD", 8)])
def test_rays_own_detection_counts_the_cards(tmp_path, product, count):
    machine = furiosa.write(tmp_path / "m", furiosa.cards(count, product))
    site = site_of("furiosa_smi_py")
    assert site is not None
    said = inside(machine, sys.executable, "-c", RAYS, site)
    assert said.split() == [str(count), "FURIOSA_RNGD"]
