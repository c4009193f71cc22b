"""What the tests on vendors' own software share: their interpreter, and a line about what was real."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.environments import interpreter, trouble


def python_of(environment: str) -> Path:
    """The interpreter of an environment; skips the test with the reason where there is none."""
    found = interpreter(environment)
    if found is None:
        lacking = trouble(environment)
        assert lacking is not None
        pytest.skip(f"{lacking.reason}; next: {lacking.hint} --flavour stand-in")
    return found
