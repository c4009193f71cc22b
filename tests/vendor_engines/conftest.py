"""The vendors' own software with stand-ins for what needs their cards: `make vendor`, each vendor's in its own environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


@pytest.fixture
def said(
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> Iterator[Callable[..., None]]:
    """Prints past pytest what in a test is real and what is a stand-in, and what was seen."""

    def say(*, real: str = "", stand_in: str = "", seen: str = "") -> None:
        lines = {"real": real, "stand-in": stand_in, "seen": seen}
        with capsys.disabled():
            print(f"\n{request.node.name}")
            for what, text in lines.items():
                if text:
                    print(f"  {what:8}  {text}")

    yield say
