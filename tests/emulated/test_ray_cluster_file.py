"""`ray-cluster.yaml` is what Ray's own loader accepts, up to the moment when it would open ssh."""

from __future__ import annotations

import subprocess
import sys

from support.lab import ROOT

CHECK = """
import json, sys, yaml
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.util import prepare_config, validate_config
config = prepare_config(yaml.safe_load(sys.stdin.read()))
validate_config(config)
config = _bootstrap_config(config, no_config_cache=True)
print(json.dumps(sorted(config["available_node_types"])))
"""


def check(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHECK],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_rays_own_loader_accepts_the_file() -> None:
    done = check((ROOT / "ray-cluster.yaml").read_text())
    assert done.returncode == 0, done.stderr
    assert "local.cluster.node" in done.stdout


def test_rays_own_loader_would_refuse_a_wrong_one() -> None:
    done = check((ROOT / "ray-cluster.yaml").read_text() + "\nworkers: 3\n")
    assert done.returncode != 0
    assert "workers" in done.stderr
