"""The real engine on a tiny random decoder: the same graph structure as real ones, in milliseconds."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.engines import engine_config
from support.tiny_onnx import DATA, EOS, FACTS, VOCAB, save, tiny_model, write_tiny_onnx

from actors.engine import EngineConfig, Sampling, Tuning
from actors.engines.onnxruntime import OnnxRuntimeStepper
from actors.errors import EngineError, LoadFailed
from actors.onnx.graph import read_graph
from actors.onnx.kv import HostKv, KvShape
from actors.onnx.runner import Runner


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_onnx(tmp_path_factory.mktemp("onnx") / "form")


def config(form: Path, **changes: Any) -> EngineConfig:
    given = {"model_path": str(form), "facts": FACTS, "kv_bytes": 1 << 24, "max_sequences": 16}
    return engine_config(**given | changes)


def loaded(form: Path, **changes: Any) -> OnnxRuntimeStepper:
    stepper = OnnxRuntimeStepper()
    progress: list[float] = []
    stepper.load(config(form, **changes), progress.append)
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    return stepper


@pytest.fixture(scope="module")
def stepper(form: Path) -> OnnxRuntimeStepper:
    return loaded(form)


def run(
    stepper: OnnxRuntimeStepper, *requests: tuple[tuple[int, ...], Sampling]
) -> list[tuple[tuple[int, ...], str]]:
    """Ids and ending of each request, all of them served together."""
    ids: list[list[int]] = [[] for _ in requests]
    ends = [""] * len(requests)
    for n, (prompt, sampling) in enumerate(requests):
        stepper.add(n, prompt, sampling)
    for _ in range(20_000):
        if not stepper.busy():
            return [(tuple(got), end) for got, end in zip(ids, ends, strict=True)]
        for row in stepper.step():
            ids[row.sequence] += row.ids
            ends[row.sequence] = row.finish or row.error
    raise AssertionError("it never ends")


def prompt(n: int, tokens: int) -> tuple[int, ...]:
    return tuple(int(x) for x in np.random.default_rng(n).integers(3, VOCAB, tokens))


WAYS = {
    "greedy": Sampling(max_tokens=24),
    "drawn": Sampling(max_tokens=24, temperature=0.8, top_p=0.9, seed=5),
    "penalised": Sampling(max_tokens=24, temperature=0.5, seed=6, frequency_penalty=0.6, presence_penalty=0.3),
}  # fmt: skip
REQUESTS = [(prompt(n, 3 + 41 * n), list(WAYS.values())[n % 3]) for n in range(16)]


def test_it_says_what_it_can_do(stepper: OnnxRuntimeStepper) -> None:
    can = stepper.capabilities()
    assert (can.window, can.sequences) == (1024, 16)
    assert can.exact and can.seed and can.penalties and can.ids_in and can.ids_out
    assert not can.json_schema
    assert can.continuation == "exact"


def test_a_text_does_not_depend_on_its_batch(stepper: OnnxRuntimeStepper) -> None:
    alone = [run(stepper, request)[0] for request in REQUESTS]
    assert run(stepper, *REQUESTS) == alone
    assert len({ids for ids, _ in alone}) == len(REQUESTS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tokens", [5, 255, 256, 300])
def test_a_text_goes_on_exactly(stepper: OnnxRuntimeStepper, way: str, tokens: int) -> None:
    begun = prompt(tokens, tokens)
    whole, end = run(stepper, (begun, WAYS[way]))[0]
    for cut in range(1, len(whole)):
        rest = replace(WAYS[way], max_tokens=24 - cut)
        assert run(stepper, ((*begun, *whole[:cut]), rest))[0] == (whole[cut:], end)


def test_a_seed_matters(stepper: OnnxRuntimeStepper) -> None:
    drawn = Sampling(max_tokens=24, temperature=1.0)
    texts = run(stepper, *[((11, 12, 13), replace(drawn, seed=n)) for n in range(8)])
    assert len({ids for ids, _ in texts}) == 8


def test_texts_end_by_themselves_without_their_end_id(stepper: OnnxRuntimeStepper) -> None:
    texts = run(stepper, *[(prompt(n, 4), Sampling(max_tokens=1000)) for n in range(12)])
    assert sum(end == "stop" for _, end in texts) >= 8
    assert all(EOS not in ids for ids, _ in texts)


def test_a_small_cache_makes_them_wait_not_fail(form: Path) -> None:
    tight = loaded(form, kv_bytes=1, window=128, max_sequences=8)
    requests = [(prompt(n, 20), Sampling(max_tokens=100, ignore_eos=True)) for n in range(5)]
    assert [len(ids) for ids, _ in run(tight, *requests)] == [100] * 5


def test_logits_of_all_positions_serve_as_well(tmp_path: Path, stepper: OnnxRuntimeStepper) -> None:
    whole = loaded(write_tiny_onnx(tmp_path, last_only=False))
    assert run(whole, *REQUESTS) == run(stepper, *REQUESTS)


def test_caches_that_do_not_move_serve_as_well(
    form: Path, stepper: OnnxRuntimeStepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostKv, "movable", False)
    fixed = loaded(form, max_sequences=5)
    assert run(fixed, *REQUESTS) == run(stepper, *REQUESTS)


# -- one request's own errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [0, 1024, 5000])
def test_prompts_that_do_not_fit(stepper: OnnxRuntimeStepper, tokens: int) -> None:
    with pytest.raises(EngineError, match="do not fit"):
        stepper.add(1, (5,) * tokens, Sampling(max_tokens=4))
    assert not stepper.busy()


@pytest.mark.parametrize("wrong", [VOCAB, -1, 2**31])
def test_ids_outside_the_vocabulary(stepper: OnnxRuntimeStepper, wrong: int) -> None:
    with pytest.raises(EngineError, match=f"token id {wrong} "):
        stepper.add(1, (5, wrong, 6), Sampling(max_tokens=4))
    assert not stepper.busy()


def test_a_schema_is_refused(stepper: OnnxRuntimeStepper) -> None:
    with pytest.raises(EngineError, match="JSON schema"):
        stepper.add(1, (5,), Sampling(max_tokens=4, json_schema="{}"))


def test_logits_that_are_not_finite_end_their_sequence_alone(tmp_path: Path) -> None:
    model = tiny_model()
    head = next(t for t in model.graph.initializer if t.name.startswith("lm_head"))
    values = numpy_helper.to_array(head).copy()
    values[:, 77] = (
        np.nan
    )  # as an embedding: texts with this id; as a column: no text at all would be well
    head.name = "embedding"
    model.graph.initializer.append(numpy_helper.from_array(values, "broken"))
    for node in model.graph.node:
        if node.op_type == "Transpose":
            node.input[0] = "broken"
        elif node.output[0] == "logits":
            node.input[1] = "embedding"
    save(model, tmp_path)
    torn = loaded(tmp_path)
    (_, good), (ids, bad) = run(
        torn, ((5, 6), Sampling(max_tokens=5)), ((5, 77), Sampling(max_tokens=5))
    )
    assert good in ("length", "stop")
    assert ids == ()
    assert "not finite" in bad


# -- models that are not served -------------------------------------------------------------------------------------


def refused(path: Path, words: str, **changes: Any) -> str:
    with pytest.raises(LoadFailed, match=words) as failure:
        OnnxRuntimeStepper().load(config(path, **changes), lambda _: None)
    return failure.value.hint


def test_plans_that_the_graph_cannot_keep(form: Path) -> None:
    assert "1024" in refused(form, "window of 1025 tokens is larger", window=1025)
    refused(form, "2 layers of 2 KV heads, the model 30", facts=replace(FACTS, layers=30))
    refused(form, "the plan has 1000 for everything", memory_bytes=1000)
    refused(form, "KV cache in fp8", tuning=Tuning(kv_dtype="fp8"))
    refused(form, "adapters", tuning=Tuning(lora=(("a", "/a"),)))
    assert refused(form, "CUDA", family="nvidia") == "pip install onnxruntime-gpu"


def test_exact_arithmetic_wants_fp32(tmp_path: Path) -> None:
    model = tiny_model()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    save(model, tmp_path)
    hint = refused(tmp_path, "is fp16 with a KV cache in fp32")
    assert "--dtype fp32" in hint


def test_a_graph_that_the_library_does_not_take(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 900

    model = tiny_model()
    change(model)
    save(model, tmp_path)
    refused(tmp_path, "does not load the graph on CPUExecutionProvider")


def test_a_graph_that_does_not_run(tmp_path: Path) -> None:
    model = tiny_model()
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            for attribute in node.attribute:
                if attribute.name == "num_heads":
                    attribute.i = 2
    save(model, tmp_path)
    refused(tmp_path, "does not run|does not load")


def test_data_outside_its_folder_never_reaches_the_library(form: Path, tmp_path: Path) -> None:
    save(tiny_model(), tmp_path)
    (tmp_path / DATA).unlink()
    (tmp_path / DATA).symlink_to(form / DATA)
    refused(tmp_path, "outside the model's folder")


class ForgetfulSession:
    """A provider that keeps nothing in the cache: each part of a prompt is read as if it were all."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab

    def get_providers(self) -> list[str]:
        return ["ForgetfulExecutionProvider"]

    def io_binding(self) -> ForgetfulSession:
        return self

    def bind_cpu_input(self, name: str, values: np.ndarray[Any, Any]) -> None:
        if name == "input_ids":
            self._ids = values

    def bind_output(self, name: str, *given: Any) -> None:
        self._out = given[-1]

    def run_with_iobinding(self, binding: Any) -> None:
        import ctypes

        logits = np.random.default_rng(int(self._ids.sum())).standard_normal(self._vocab)
        place = (ctypes.c_float * self._vocab).from_address(self._out)
        np.frombuffer(place, np.float32)[:] = logits


class NoCache:
    movable = True

    def bind(self, binding: Any, low: int, high: int) -> None:
        return

    move: Callable[..., None] = bind
    freed: Callable[..., None] = bind


def test_a_provider_that_loses_the_cache_is_found_out(form: Path) -> None:
    session = ForgetfulSession(VOCAB)
    runner = Runner(session, read_graph(form), NoCache(), vocab=VOCAB, rows=1, chunk=4)
    with pytest.raises(LoadFailed, match="cache in place on ForgetfulExecutionProvider"):
        runner.prove()


# -- memory ---------------------------------------------------------------------------------------------------------


def test_pages_of_freed_slots_go_back_once_the_plan_is_used_up() -> None:
    shape = KvShape(slots=3, heads=2, window=1024, values=16, dtype="fp32", tensors=2)
    assert (shape.token_bytes, shape.row_bytes) == (256, 131072)
    kept = HostKv((("a", "b"), ("c", "d")), shape, budget_tokens=2000)
    for tensor in kept._tensors:
        tensor[:] = 1.0
    kept.freed(0, 900)
    kept.freed(1, 900)
    assert all(tensor[:2].min() == 1.0 for tensor in kept._tensors)
    kept.freed(2, 900)
    if hasattr(mmap, "MADV_DONTNEED"):
        assert all(tensor[2].max() == 0.0 for tensor in kept._tensors)
    assert all(tensor[:2].min() == 1.0 for tensor in kept._tensors)


def test_a_large_window_takes_no_memory_before_it_is_used(form: Path) -> None:
    before = _resident_bytes()
    shape = KvShape(slots=64, heads=8, window=8192, values=64, dtype="fp32", tensors=8)
    cache = HostKv(tuple((str(n), str(n)) for n in range(8)), shape, budget_tokens=10**9)
    cache.move(0, 1, 10)
    assert shape.slots * shape.row_bytes * shape.tensors > 8e9
    assert _resident_bytes() - before < 64 << 20


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * mmap.PAGESIZE
