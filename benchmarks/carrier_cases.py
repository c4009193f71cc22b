"""What the benchmark of the carriers runs: engines that can start here, a stand-in for a vendor's server, and how each is reached.

Benchmarks only. Decides which engines are left out, and why.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from actors.engine import Capabilities, Engine, EngineConfig, EngineRequest, Sampling
from actors.engine_config import Place, engine_config
from actors.environments import interpreter, trouble, variables
from actors.plugins import available_engines, engine_facts, make_engine, server_of
from actors.process_tree import name_of
from actors.server.engine import ServerEngine
from actors.server.spec import Dialect, Ending, Server, When
from actors.sources import form_path, path_of
from actors.text import TextModel
from benchmarks.children import ROOT
from benchmarks.engine import SOURCE, WINDOW, a_slot, messages
from placement.devices import Dtype
from placement.errors import ShardyardError

STAND_IN = "stand-in"
WORKERS = ("openvino", "onnxruntime")
SERVERS = (STAND_IN, "vllm")
DTYPES: dict[str, Dtype] = {"onnxruntime": "fp32"}
"""The form that is measured, where a form settles the dtype."""
STEP_S, STEP_PER_SEQUENCE_S = 0.020, 0.0005
"""Pace of the stand-in: t(B) = 20 ms + 0.5 ms x B."""
_SCRIPT = ROOT / "tests" / "support" / "openai_server.py"
_SOCKETS, _NAMES = ("--socket", "--uds"), ("--served", "--served-model-name")


class StandIn:
    """See `Server`. The one that our tests use, at a steady pace, run with this interpreter."""

    name: ClassVar[str] = STAND_IN
    environment: ClassVar[str] = ""
    argv: tuple[str | When, ...] = (
        "{python}", "-S", str(_SCRIPT), "--socket", "{socket}", "--served", "{served}", "--window", "{window}",
        "--sequences", "{sequences}", "--pace", "{pace}", "--pace-per-sequence", "{more}",
    )  # fmt: skip
    variables: ClassVar[Mapping[str, str]] = {}
    dialect: ClassVar[Dialect] = Dialect(ids_switch={"return_token_ids": True}, ignore_eos=True)
    metrics: ClassVar[Mapping[str, str]] = {
        "running": "stand_in:running",
        "waiting": "stand_in:waiting",
        "kv_used_ratio": "stand_in:kv",
    }
    endings: ClassVar[tuple[Ending, ...]] = ()

    def __init__(self, step_s: float = STEP_S, more_s: float = STEP_PER_SEQUENCE_S) -> None:
        self._values = {"pace": str(step_s), "more": str(more_s)}

    def values(self, config: EngineConfig) -> Mapping[str, str]:
        """See `Server`."""
        return self._values

    def capabilities(self, config: EngineConfig) -> Capabilities:
        """See `Server`."""
        return Capabilities(window=config.window, sequences=config.max_sequences)


def an_engine(name: str) -> Engine:
    """A new engine by name, the stand-in included."""
    return ServerEngine(StandIn()) if name == STAND_IN else make_engine(name)


def a_server(name: str) -> Server | None:
    """The server that an engine is; None when it is a worker."""
    return StandIn() if name == STAND_IN else server_of(name)


def python_of(server: Server) -> tuple[Path, Mapping[str, str]]:
    """Interpreter and variables of a server's environment."""
    if not server.environment:
        return Path(sys.executable), {}
    python = interpreter(server.environment)
    if python is None:
        raise RuntimeError(f"the environment {server.environment!r} is not built")
    return python, variables(server.environment)


def model_path(name: str, given: Mapping[str, str]) -> str:
    """Weights for an engine.

    Args:
        given: paths by engine that win over the prepared forms.

    Raises:
        ModelMissing: the form is not here.
    """
    if name in given or name == STAND_IN:
        return given.get(name, "")
    facts = engine_facts(name)
    return str(form_path(SOURCE, facts.formats if facts else (), DTYPES.get(name)))


def left_out(name: str, given: Mapping[str, str]) -> str:
    """Why an engine cannot be measured here; empty = it can."""
    if name == STAND_IN:
        return ""
    broken = next((b for b in available_engines()[1] if b.name == name), None)
    server = server_of(name)
    wrong = trouble(server.environment) if server and server.environment else None
    if broken or wrong:
        return f"{(broken or wrong).reason}; {(broken or wrong).hint}"  # type: ignore[union-attr]
    try:
        model_path(name, given)
    except ShardyardError as error:
        return f"{error.message}; {error.hint}"
    return ""


def a_text() -> TextModel:
    """The tokenizer of the model."""
    return TextModel.load(path_of(SOURCE))


def a_config(name: str, path: str, text: TextModel) -> EngineConfig:
    """As a replica would make it of the slot."""
    return engine_config(a_slot(name), text, Place(model_path=path), window=WINDOW)


def a_request(text: TextModel, stream: int, tokens: int) -> EngineRequest:
    """The request of one stream as it reaches the engine."""
    sampling = Sampling(max_tokens=tokens, ignore_eos=True)
    ids = tuple(text.chat_ids(messages(stream)))
    return EngineRequest(id=f"stream-{stream}", prompt_ids=ids, sampling=sampling)


def door_of(pids: tuple[int, ...]) -> tuple[str, str]:
    """Socket and served name of a running server, as its command line says.

    Raises:
        RuntimeError: none of these processes has them.
    """
    for pid in pids:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        found = dict(pairwise(words))
        door = [found[word] for word in _SOCKETS if word in found]
        name = [found[word] for word in _NAMES if word in found]
        if door and name:
            return door[0], name[0]
    raise RuntimeError(f"no server among {[name_of(pid) for pid in pids]}")
