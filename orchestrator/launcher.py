"""Runs the short-lived process that puts our controller on a Ray cluster, so that this one never is a Ray client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from .errors import ControlError

LAUNCH_TIMEOUT_S = 150.0


class Launcher:
    """The process, for one request. Start it ahead: it imports Ray while Ray's own processes come up.

    Args:
        folder: where the process runs, so that a folder of the user's called `actors` hides nothing.
    """

    def __init__(self, *, env: Mapping[str, str], folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.ray_launch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**env, "PYTHONSAFEPATH": "1"},
            cwd=folder,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Sends the request and returns the answer.

        Raises:
            ControlError: it failed, with its reason, or did not answer in time.
        """
        try:
            output, errors = self._process.communicate(json.dumps(dict(request)), LAUNCH_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise ControlError(
                f"the controller did not start within {LAUNCH_TIMEOUT_S:.0f} s",
                hint="shardyard doctor",
            ) from error
        return _answer(output, errors, self._process.returncode)


def launch(request: Mapping[str, Any], *, env: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Starts a `Launcher` and asks it at once."""
    with Launcher(env=env, folder=folder) as launcher:
        return launcher.ask(request)


def _answer(output: str, errors: str, code: int) -> dict[str, Any]:
    lines = output.strip().splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        raise ControlError(
            f"the launcher of the controller ended with {code}: {last}",
            hint="shardyard doctor",
        ) from None
    if "error" in answer:
        error = answer["error"]
        raise ControlError(error["message"], hint=error["hint"])
    return dict(answer)
