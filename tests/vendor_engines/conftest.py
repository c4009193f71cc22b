"""The vendors' own software with stand-ins for what needs their cards: `make vendor`, each vendor's in its own environment."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Callable[..., None]:
    """Prints past pytest what in a test is real and what is a stand-in, and what was seen."""

    def say(*, real: str = "", stand_in: str = "", seen: str = "") -> None:
        lines = {"real": real, "stand-in": stand_in, "seen": seen}
        told = "".join(f"  {what:8}  {text}\n" for what, text in lines.items() if text)
        with capsys.disabled():
            sys.stdout.write(f"\n{request.node.name}\n{told}")

    return say
