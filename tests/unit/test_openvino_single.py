"""One sequence after another on an NPU, over a stand-in for the library: no NPU was seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engines import engine_config
from support.openvino_library import StandInLibrary

from actors.engine import EngineConfig, Sampling
from actors.engines.openvino import OpenVinoStepper
from actors.errors import EngineError, LoadFailed
from actors.worker.stepper import Row

EOS = 60


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> StandInLibrary:
    made = StandInLibrary("CPU", "GPU", "NPU")
    made.install(monkeypatch)
    return made


def config(folder: Path, **changes: Any) -> EngineConfig:
    fields: dict[str, Any] = {
        "model_path": str(folder), "arithmetic": "fast", "window": 100, "eos_ids": (EOS,),
        "family": "intel-npu", "handles": ("NPU",), "max_sequences": 4, "threads": 2,
    }  # fmt: skip
    return engine_config(**fields | changes)


@pytest.fixture
def stepper(library: StandInLibrary, tmp_path: Path) -> Iterator[OpenVinoStepper]:
    made = OpenVinoStepper()
    made.load(config(tmp_path), lambda _: None)
    yield made
    library.gate.set()


def steps(stepper: OpenVinoStepper) -> Iterator[Row]:
    """All rows until there is nothing to do."""
    deadline = time.monotonic() + 10
    while stepper.busy():
        assert time.monotonic() < deadline
        yield from stepper.step()


def texts(stepper: OpenVinoStepper) -> dict[int, tuple[tuple[int, ...], str]]:
    """Ids and ending of each sequence, in the order in which they ended."""
    ids: dict[int, tuple[int, ...]] = {}
    ended: dict[int, tuple[tuple[int, ...], str]] = {}
    for row in steps(stepper):
        ids[row.sequence] = ids.get(row.sequence, ()) + row.ids
        if row.finish or row.error:
            ended[row.sequence] = (ids[row.sequence], row.finish or row.error)
    return ended


@pytest.mark.parametrize(
    ("family", "handles", "made"),
    [
        (
            "intel-npu",
            ("NPU",),
            ("single", "NPU", {"MAX_PROMPT_LEN": 128, "MIN_RESPONSE_LEN": 128}),
        ),
        ("intel-gpu", ("0",), ("paged", "GPU", {})),
        ("", (), ("paged", "CPU", {"INFERENCE_NUM_THREADS": 2})),
    ],
)
def test_each_device_gets_its_pipeline(
    library: StandInLibrary, tmp_path: Path, family: str, handles: tuple[str, ...], made: object
) -> None:
    OpenVinoStepper().load(config(tmp_path, family=family, handles=handles), lambda _: None)
    assert library.made == [made]


def test_sequences_run_one_after_another_in_order(stepper: OpenVinoStepper) -> None:
    for number, first in ((7, 10), (3, 20), (5, EOS - 3)):
        stepper.add(number, (1, first), Sampling(max_tokens=4))
    assert (stepper.stats().running, stepper.stats().waiting) == (0, 3)
    assert list(texts(stepper).items()) == [
        (7, ((11, 12, 13, 14), "length")),
        (3, ((21, 22, 23, 24), "length")),
        (5, ((EOS - 2, EOS - 1), "stop")),
    ]
    assert (stepper.stats().running, stepper.stats().waiting) == (0, 0)


def test_the_end_can_be_ignored_and_is_told_then(stepper: OpenVinoStepper) -> None:
    stepper.add(1, (EOS - 1,), Sampling(max_tokens=3, ignore_eos=True))
    assert texts(stepper) == {1: ((EOS, EOS + 1, EOS + 2), "length")}


def test_an_aborted_sequence_gives_no_row_and_the_next_one_runs(
    library: StandInLibrary, stepper: OpenVinoStepper
) -> None:
    library.gate.clear()
    for number in (1, 2, 3):
        stepper.add(number, (10 * number,), Sampling(max_tokens=50))
    assert stepper.step() == []
    assert (stepper.stats().running, stepper.stats().waiting) == (1, 2)
    stepper.abort(1)
    stepper.abort(2)
    stepper.abort(99)
    assert (stepper.stats().running, stepper.stats().waiting) == (0, 1)
    library.gate.set()
    assert list(texts(stepper)) == [3]


def test_nothing_is_to_be_done_once_all_are_aborted(
    library: StandInLibrary, stepper: OpenVinoStepper
) -> None:
    library.gate.clear()
    stepper.add(1, (10,), Sampling(max_tokens=50))
    stepper.step()
    stepper.abort(1)
    assert not stepper.busy()


def test_a_failure_is_its_sequences_alone(
    library: StandInLibrary, stepper: OpenVinoStepper
) -> None:
    library.wrong = "Check failed\nthe device is on fire"
    stepper.add(1, (10,), Sampling(max_tokens=3))
    assert texts(stepper) == {1: ((), "openvino: the device is on fire")}
    library.wrong = ""
    stepper.add(2, (10,), Sampling(max_tokens=3))
    assert texts(stepper) == {2: ((11, 12, 13), "length")}


@pytest.mark.parametrize("prompt", [(), (1,) * 100, (4000,)])
def test_a_prompt_that_cannot_be_is_refused(
    stepper: OpenVinoStepper, prompt: tuple[int, ...]
) -> None:
    with pytest.raises(EngineError, match=r"fit|vocabulary"):
        stepper.add(1, prompt, Sampling(max_tokens=4))
    assert not stepper.busy()


def test_a_model_that_the_npu_refuses_is_a_clear_failure(
    library: StandInLibrary, tmp_path: Path
) -> None:
    library.refuses = "Exception from here\nunsupported weights"
    with pytest.raises(LoadFailed, match="openvino: unsupported weights") as refused:
        OpenVinoStepper().load(config(tmp_path), lambda _: None)
    assert "symmetric int4" in refused.value.hint
