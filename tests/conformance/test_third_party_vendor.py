"""The example of a vendor of its own: a wheel, found by entry point, planned with, and kept to the conformance suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "third-party-vendor"
PLANNED = """
import json
from actors.host import RealHost
from actors.plugins import ENGINES_GROUP, ENGINES_PACKAGE, load_plugins
from actors.prober import prober_of_this_node
from actors.sources import resolve
from orchestrator.spec import load_app
from placement import Problem, solve
from placement.inventory import Inventory
from dataclasses import replace
report = prober_of_this_node(RealHost(), "i").report()
app = load_app("EXAMPLE/app.yaml")
sources = {s for d in app.demands for s in (d.model.source, d.model.tokenizer)}
node = replace(report.as_node(), models=tuple(resolve(s) for s in sources))
inventory = Inventory(nodes=(node,), classes=report.classes, engines=report.engine_facts)
plan = solve(Problem(inventory=inventory, app=app))
print(json.dumps({
    "engines": sorted(load_plugins(ENGINES_PACKAGE, ENGINES_GROUP).found),
    "devices": [d.device_class for d in report.devices],
    "slots": [[s.engine, s.device_class] for s in plan.slots],
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into."""
    target = tmp_path_factory.mktemp("site")
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--no-input", "--target", target)
    words = [sys.executable, "-m", "pip", "install", *map(str, options), str(EXAMPLE)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return target


def run(words: list[str], wheel: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": f"{wheel}{os.pathsep}{ROOT}"} | variables
    return subprocess.run(words, capture_output=True, text=True, env=env, cwd=wheel, timeout=110)


def test_its_card_and_its_engine_are_found_and_planned_with(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "acme0").mkdir()
    (tmp_path / "acme0" / "serial").write_text("AX0001")
    code = PLANNED.replace("EXAMPLE", str(EXAMPLE))
    done = run([sys.executable, "-c", code], wheel, ACME_SYSFS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert "acme" in said["engines"]
    assert "ACME_X1" in said["devices"]
    assert said["slots"] == [["acme", "ACME_X1"]]


def test_its_own_tests_pass_by_the_names_that_its_readme_gives(wheel: Path) -> None:
    ours = ["-c", "/dev/null", "--rootdir", str(EXAMPLE), "-q", "-p", "no:cacheprovider"]
    done = run([sys.executable, "-m", "pytest", *ours, str(EXAMPLE / "tests")], wheel)
    assert done.returncode == 0, done.stdout[-3000:]
    suite = ["--pyargs", "actors.conformance", "--shardyard-engine", "acme"]
    done = run([sys.executable, "-m", "pytest", *ours, *suite, "--shardyard-handle", "0"], wheel)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout
