"""An engine whose processes lie on several nodes: joined through the slot's placement group, started, and ended together."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_processes_of_a_group_start_on_their_nodes_and_end_with_each_other(lab) -> None:
    words = lab.yard.json("status")["ray_tools"].split()
    env = dict(word.split("=", 1) for word in words if word.startswith("RAY_"))
    script = ROOT / "tests" / "support" / "peers_in_ray.py"
    done = lab.yard.execute(
        [sys.executable, str(script), lab.yard.record().address, "cpu-1", "gpu-1"],
        timeout_s=150.0,
        cwd=ROOT,
        env=env | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(set(said["hosts"])) == 2
    assert said["port"] > 0
    assert said["running"] == 1
    assert "ended" in said["why"]
