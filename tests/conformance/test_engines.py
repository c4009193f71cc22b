"""The conformance suite over the engines that need nothing but this repository; `make engines` runs it over real ones."""

from __future__ import annotations

import pytest
from support.engines import engine_config

from actors.conformance.plugin import engine
from actors.conformance.subject import Subject
from actors.conformance.test_engine import *  # noqa: F403 - the suite itself
from actors.plugins import make_engine
from actors.worker import WorkerEngine

__all__ = ["engine"]

PROMPTS = tuple((11 + n, 12, 13) for n in range(8))
CONFIG = engine_config(max_sequences=4, window=512)
SUBJECTS = {
    "emulated": lambda: make_engine("emulated"),
    "worker": lambda: WorkerEngine("worker", "support.engines:BatchStepper"),
}


@pytest.fixture(params=sorted(SUBJECTS), scope="module")
def subject(request: pytest.FixtureRequest) -> Subject:
    make = SUBJECTS[request.param]
    return Subject(name=request.param, make=make, config=CONFIG, prompts=PROMPTS, load_s=20)
