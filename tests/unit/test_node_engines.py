"""What a node says of its engines: those that can start, why the others cannot, and what the operator keeps out."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.hosts import FakeHost

from actors.environments import ENVS_ENV
from actors.names import ENGINES_ENV
from actors.node_engines import engines_of_this_node


@pytest.fixture(autouse=True)
def no_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVS_ENV, str(tmp_path))


def test_ours_can_start_and_nobody_is_blamed_for_what_was_never_built() -> None:
    found = engines_of_this_node(FakeHost())
    assert {"emulated", "openvino", "onnxruntime", "remote"} <= found.names
    assert "vllm" not in found.names
    assert found.broken == ()


def test_an_environment_that_was_begun_and_never_finished_is_told(tmp_path: Path) -> None:
    (tmp_path / "vllm" / "bin").mkdir(parents=True)
    (tmp_path / "vllm" / "bin" / "python").touch()
    (tmp_path / "vllm" / "pyvenv.cfg").touch()
    found = engines_of_this_node(FakeHost())
    assert [problem.name for problem in found.broken] == ["engine vllm"]
    assert "env create vllm" in found.broken[0].hint


def test_the_operator_keeps_engines_out() -> None:
    found = engines_of_this_node(FakeHost(variables={ENGINES_ENV: "openvino,emulated"}))
    assert found.names == {"openvino", "emulated"}
    assert found.broken == ()


def test_an_engine_that_nobody_knows_is_named() -> None:
    found = engines_of_this_node(FakeHost(variables={ENGINES_ENV: "openvino,opnvino"}))
    assert found.names == {"openvino"}
    assert [problem.name for problem in found.broken] == ["engine opnvino"]


def test_an_engine_that_is_wanted_and_lacks_something_says_what() -> None:
    found = engines_of_this_node(FakeHost(variables={ENGINES_ENV: "vllm"}))
    assert found.names == frozenset()
    assert [problem.name for problem in found.broken] == ["engine vllm"]
