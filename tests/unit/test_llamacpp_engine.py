"""The llama.cpp engine around a stand-in for its package: what is set, what is asked, and how answers become rows."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from support.engines import engine_config
from support.model_files import facts_keys, text_keys, write_gguf

from actors.engine import EngineConfig, Sampling
from actors.engines.llamacpp import LlamaCppStepper
from actors.errors import EngineError, LoadFailed
from actors.llamacpp_settings import completion
from actors.worker.stepper import Row

Callback = Callable[[dict[str, Any]], bool]


def told(ids: list[int], text: str, count: int, finish: str | None = None) -> dict[str, Any]:
    """What llama.cpp says with `verbose`."""
    details = {"content": text, "tokens": ids, "tokens_predicted": count}
    return {"choices": [{"text": text, "finish_reason": finish}], "__verbose": details}


class Server:
    """Stands in for llama.cpp's: answers each prompt with its script."""

    script: list[dict[str, Any]]
    address = "unix:///somewhere"
    hold: threading.Event | None = None

    def __init__(self, parameters: Any) -> None:
        self.parameters = parameters
        self.asked: list[dict[str, Any]] = []
        self.socket = parameters.hostnames[0]
        self.private = Path(self.socket).parent.stat().st_mode & 0o777
        SERVERS.append(self)

    @property
    def listening_address(self) -> str:
        return self.address

    def handle_completions(self, body: dict[str, Any], callback: Callback) -> None:
        self.asked.append(body)
        for said in self.script:
            if callback(said):
                return
            if self.hold is not None:
                self.hold.wait(5)


SERVERS: list[Server] = []


def parameters() -> SimpleNamespace:
    return SimpleNamespace(
        model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace()
    )


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    module = ModuleType("xllamacpp")
    server = type("Scripted", (Server,), {})
    kinds = [SimpleNamespace(name="GGML_TYPE_F32"), SimpleNamespace(name="GGML_TYPE_Q8_0")]
    for name, value in {
        "Server": server, "CommonParams": parameters, "ggml_type": kinds, "llama_flash_attn_type": [],
    }.items():  # fmt: skip
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    SERVERS.clear()
    yield server
    SERVERS.clear()


def config(folder: Path, **changes: Any) -> EngineConfig:
    place = folder / "model.gguf"
    write_gguf(place)
    return engine_config(**{"model_path": str(place), "window": 100, "max_sequences": 2} | changes)


def loaded(folder: Path, **changes: Any) -> LlamaCppStepper:
    stepper = LlamaCppStepper()
    done: list[float] = []
    stepper.load(config(folder, **changes), done.append)
    assert done[-1] == 1.0
    return stepper


def rows(stepper: LlamaCppStepper) -> list[Row]:
    """Everything until nothing runs."""
    found: list[Row] = []
    deadline = time.monotonic() + 5
    while stepper.busy() and time.monotonic() < deadline:
        found += stepper.step()
    assert not stepper.busy()
    return found


def answered(stepper: LlamaCppStepper, **sampling: Any) -> tuple[tuple[int, ...], Row]:
    stepper.add(1, (5, 6), Sampling(**{"max_tokens": 50} | sampling))
    found = rows(stepper)
    return tuple(n for row in found for n in row.ids), found[-1]


def test_every_setting_that_it_would_choose_by_itself_is_chosen(tmp_path: Path) -> None:
    loaded(tmp_path, window=300, max_sequences=3, threads=2)
    given = SERVERS[0].parameters
    assert (given.n_parallel, given.n_ctx) == (3, 3 * 512)
    assert not (given.kv_unified or given.fit_params or given.ctx_shift or given.ui)
    assert (given.cache_ram_mib, given.n_gpu_layers) == (0, 0)
    assert (given.cpuparams.n_threads, given.cpuparams.poll) == (2, 0)
    assert given.cache_type_k.name == "GGML_TYPE_F32", "exact arithmetic"


@pytest.mark.parametrize(
    ("file_type", "changes", "continuation"),
    [
        (0, {"arithmetic": "exact"}, "exact"),
        (0, {"arithmetic": "fast"}, "coherent"),
        (0, {"arithmetic": "exact", "family": "nvidia"}, "coherent"),
        (3, {"arithmetic": "exact"}, "coherent"),
        (None, {"arithmetic": "exact"}, "coherent"),
    ],
)
def test_it_is_exact_where_nothing_is_rounded_further(
    tmp_path: Path, file_type: int | None, changes: dict[str, Any], continuation: str
) -> None:
    told = {} if file_type is None else {"general.file_type": file_type}
    place = write_gguf(tmp_path / "typed.gguf", values=facts_keys() | text_keys() | told)
    can = loaded(tmp_path, model_path=str(place), **changes).capabilities()
    assert (can.continuation, can.exact) == (continuation, continuation == "exact")


def test_nobody_reaches_its_listener(tmp_path: Path) -> None:
    loaded(tmp_path)
    server = SERVERS[0]
    assert server.private == 0o700
    assert not Path(server.socket).parent.exists()
    assert len(server.parameters.api_keys[0]) == 64


def test_a_listener_that_others_could_reach_is_refused(
    tmp_path: Path, library: type[Server]
) -> None:
    library.address = "http://127.0.0.1:8080"
    with pytest.raises(LoadFailed, match="instead of a private socket"):
        loaded(tmp_path)


def test_ids_end_before_the_end_id(tmp_path: Path, library: type[Server]) -> None:
    library.script = [
        told([7], "a", 1),
        told([8], "b", 2),
        told([2], "", 3),
        told([], "", 3, "stop"),
    ]
    ids, last = answered(loaded(tmp_path))
    assert (ids, last.finish) == ((7, 8), "stop")


def test_an_end_of_llama_cpps_own_is_no_id_of_the_text(
    tmp_path: Path, library: type[Server]
) -> None:
    library.script = [told([7], "a", 1), told([99], "", 2), told([], "", 2, "stop")]
    assert answered(loaded(tmp_path))[0] == (7,)
    library.script = [told([99], "", 1), told([7], "a", 2), told([], "", 2, "length")]
    assert answered(loaded(tmp_path))[0] == (99, 7)


def test_progress_of_the_prompt_is_no_token(tmp_path: Path, library: type[Server]) -> None:
    progress = told([0], "", 0) | {"prompt_progress": {"processed": 2}}
    library.script = [progress, told([7], "a", 1), told([], "", 1, "length")]
    ids, last = answered(loaded(tmp_path))
    assert (ids, last.finish) == ((7,), "length")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([{"error": {"message": "too long"}}], "too long"),
        ([{"error": 7}], "no reason given"),
        ([{}], "not known"),
        ([{"choices": []}], "not known"),
        ([told([7], "a", 1)], "without a reason"),
        ([], "without a reason"),
    ],
)
def test_what_goes_wrong_ends_one_sequence_with_its_cause(
    tmp_path: Path, library: type[Server], script: list[dict[str, Any]], says: str
) -> None:
    library.script = script
    stepper = loaded(tmp_path)
    assert says in answered(stepper)[1].error
    library.script = [told([], "", 0, "stop")]
    assert answered(stepper)[1].finish == "stop"


def test_a_schema_that_is_not_kept_is_an_error(tmp_path: Path, library: type[Server]) -> None:
    library.script = [told([7], "The", 1), told([], "", 1, "stop")]
    stepper = loaded(tmp_path)
    assert "schema" in answered(stepper, json_schema="{}")[1].error
    library.script = [told([7], "t", 1), told([8], "he", 2), told([], "", 2, "length")]
    assert "schema" in answered(stepper, json_schema="{}")[1].error
    library.script = [told([7], "[1, 2", 1), told([], "", 1, "length")]
    assert answered(stepper, json_schema="{}")[1].finish == "length"
    library.script = [told([7], '{"a":', 1), told([8], " 1}", 2), told([], "", 2, "stop")]
    assert answered(stepper, json_schema="{}")[1].finish == "stop"
    with pytest.raises(EngineError, match="not JSON"):
        stepper.add(9, (5,), Sampling(max_tokens=1, json_schema="{"))


def test_an_aborted_sequence_says_nothing_more_and_frees_its_place(
    tmp_path: Path, library: type[Server]
) -> None:
    library.hold = threading.Event()
    library.script = [told([7], "a", 1)] * 100
    stepper = loaded(tmp_path, max_sequences=1)
    stepper.add(1, (5,), Sampling(max_tokens=90))
    stepper.add(2, (5,), Sampling(max_tokens=90))
    while not stepper.step():
        continue
    assert (stepper.stats().running, stepper.stats().waiting) == (1, 1)
    stepper.abort(1)
    stepper.abort(2)
    stepper.abort(3)
    library.hold.set()
    assert rows(stepper) == []
    assert stepper.stats().running == 0


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    stepper = loaded(tmp_path)
    for prompt, most in (((), 1), (tuple([5] * 100), 1), ((5,), 0), ((10**6,), 1)):
        with pytest.raises(EngineError):
            stepper.add(1, prompt, Sampling(max_tokens=most))
    assert not stepper.busy()


def test_a_question_leaves_nothing_to_its_defaults() -> None:
    body = completion((5, 6), Sampling(max_tokens=9, temperature=0.5, top_p=0.9, seed=2**40), 9)
    assert body["samplers"] == ["penalties", "temperature", "top_p"]
    assert 0 <= body["seed"] < 2**32 - 1
    assert (body["prompt"], body["n_predict"], body["stream"]) == ([5, 6], 9, True)
    assert json.dumps(body)
