"""The conformance suite over `furiosa-llm serve`, of which only the card is a stand-in."""

from __future__ import annotations

from typing import Any

import pytest
from support.furiosa_stand_in import REAL, STAND_IN, furiosa_config, furiosa_files, stand_in_engine

from actors.conformance.plugin import engine
from actors.conformance.subject import Subject
from actors.conformance.test_engine import *  # noqa: F403 - the suite itself

__all__ = ["engine"]

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    files = furiosa_files(tmp_path_factory.mktemp("furiosa"))
    return Subject(
        name="furiosa",
        make=stand_in_engine,
        config=furiosa_config(files, window=512, max_sequences=4),
        prompts=tuple((11 + n, 12, 13) for n in range(8)),
        load_s=300,
    )


async def test_what_is_real_here(said: Any) -> None:
    said(real=REAL, stand_in=STAND_IN, seen="the suite's other tests say what was kept")
