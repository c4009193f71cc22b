"""What the builder refuses and says, without torch: the conversion itself runs in its own environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.onnx.build import BuildFailed, _Stages, build, read_config

ROOT = Path(__file__).parents[2]


def hf_folder(folder: Path, config: str = '{"num_hidden_layers": 4}') -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_a_folder_tells_its_configuration(tmp_path: Path) -> None:
    assert read_config(hf_folder(tmp_path)) == {"num_hidden_layers": 4}


@pytest.mark.parametrize("config", ["{", "[]"])
def test_a_configuration_that_is_none(tmp_path: Path, config: str) -> None:
    with pytest.raises(BuildFailed, match=r"config\.json"):
        read_config(hf_folder(tmp_path, config))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"no readable config\.json"):
        read_config(tmp_path)


def test_weights_in_pickle_files_are_not_read(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BuildFailed, match="run code"):
        read_config(folder)


def test_a_form_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="exists"):
        build(hf_folder(tmp_path / "in"), tmp_path, "fp32", lambda done, stage: None)


def test_stages_are_read_from_what_the_builder_prints() -> None:
    seen: list[tuple[float, str]] = []
    stages = _Stages(4, lambda done, stage: seen.append((round(done, 2), stage)))
    stages.write("GroupQueryAttention (GQA) is used\nReading lay")
    stages.write("er 0\nReading layer 3\nSaving ONNX model in x\n")
    assert seen == [(0.15, "layer 0"), (0.6, "layer 3"), (0.6, "saving")]


def test_the_command_answers_in_lines_and_leaves_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "actors.onnx.build",
        str(tmp_path / "none"),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        command,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert "config.json" in lines[-1]["error"]
    assert lines[-1]["hint"]
    assert not list(tmp_path.iterdir())
