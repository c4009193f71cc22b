"""Runs the short-lived process that puts our controller on a Ray cluster, so that this one never is a Ray client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ControlError

LAUNCH_TIMEOUT_S = 150.0


def launch(request: Mapping[str, Any], *, env: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Sends one request to `orchestrator.ray_launch` and returns its answer.

    Args:
        folder: where the process runs, so that a folder of the user's called `actors` hides nothing.

    Raises:
        ControlError: it failed, with its reason, or did not answer in time.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.ray_launch"],
            input=json.dumps(dict(request)),
            capture_output=True,
            text=True,
            env={**env, "PYTHONSAFEPATH": "1"},
            cwd=folder,
            timeout=LAUNCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ControlError(
            f"the controller did not start within {LAUNCH_TIMEOUT_S:.0f} s",
            hint="shardyard doctor",
        ) from error
    return _answer(done)


def _answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = done.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ControlError(
            f"the launcher of the controller ended with {done.returncode}: {last}",
            hint="shardyard doctor",
        ) from None
    if "error" in answer:
        error = answer["error"]
        raise ControlError(error["message"], hint=error["hint"])
    return dict(answer)
