"""The conformance suite over the engines that need nothing but this repository; `make engines` runs it over real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.engines import engine_config
from support.servers import ToldInText, server_engine
from support.tiny_onnx import EOS, FACTS, write_tiny_onnx

from actors.conformance.plugin import engine
from actors.conformance.subject import Subject
from actors.conformance.test_engine import *  # noqa: F403 - the suite itself
from actors.engine import Capabilities, Engine, EngineConfig, Pace
from actors.openai.dialect import Dialect
from actors.plugins import make_engine
from actors.worker.engine import WorkerEngine

__all__ = ["engine"]

PROMPTS = tuple((11 + n, 12, 13) for n in range(8))
PACE = Pace(fixed_s=0.002, per_sequence_s=0.0, prefill_tokens_per_s=1e6, load_s=0.05)
CONFIG = engine_config(max_sequences=4, window=512, pace=PACE)


def emulated(_folder: Path) -> Subject:
    """Paced in the replica's own process."""
    return _subject("emulated", lambda: make_engine("emulated"))


def worker(_folder: Path) -> Subject:
    """The worker carrier."""
    return _subject("worker", lambda: WorkerEngine("worker", "support.engines:PacedStepper"))


def server(_folder: Path) -> Subject:
    """The server carrier, around a stand-in that tells token ids."""
    return _subject("server", lambda: server_engine(pace=0.002))


def server_of_text(_folder: Path) -> Subject:
    """The server carrier, around a stand-in that is asked for text alone."""
    return _subject("text", lambda: server_engine(server=TextOnly, pace=0.002))


def onnxruntime(folder: Path) -> Subject:
    """The real engine on a graph so small that it is built here."""
    path = write_tiny_onnx(folder / "tiny")
    config = replace(
        CONFIG, model_path=str(path), facts=FACTS, device_class="CPU", dtype="fp32", eos_ids=(EOS,)
    )
    return replace(_subject("onnxruntime", lambda: make_engine("onnxruntime")), config=config)


class TextOnly(ToldInText):
    """A server that takes and gives text."""

    dialect = Dialect(prompt_ids=False, ignore_eos=True)

    def capabilities(self, config: EngineConfig) -> Capabilities:
        """Nothing that needs ids."""
        return Capabilities(window=config.window, ids_in=False, ids_out=False, continuation="none")


def _subject(name: str, make: Callable[[], Engine]) -> Subject:
    return Subject(
        name=name, make=make, config=CONFIG, prompts=PROMPTS, texts=("one", "two"), load_s=20
    )


@pytest.fixture(
    params=[emulated, worker, server, server_of_text, onnxruntime],
    ids=lambda made: made.__name__,
    scope="module",
)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Each engine in turn."""
    return request.param(tmp_path_factory.mktemp("model"))
