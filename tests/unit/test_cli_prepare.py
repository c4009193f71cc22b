"""`shardyard prepare`: the way from one form to the next, its errors, and that a failure leaves nothing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.model_files import write_checkpoint, write_gguf

from actors.forms import store as forms
from actors.forms.store import FORMS_ENV
from orchestrator.cli import main

MAKER = """
import json, sys
from pathlib import Path
module, source, target = sys.argv[2:5]
print(json.dumps({"progress": 0.5, "stage": "half"}), flush=True)
print("noise of a library")
if Path(sys.prefix, "fails").exists():
    print(json.dumps({"error": "the weights are torn", "hint": "fetch them again"}))
    sys.exit(1)
if Path(sys.prefix, "dies").exists():
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
folder = Path(target)
folder.mkdir(exist_ok=True)
name = {"actors.forms.safetensors": "model.safetensors", "actors.onnx.build": "model.onnx", "actors.forms.gguf": "model.gguf"}[module]
(folder / name).write_bytes(Path(source).name.encode())
"""
"""What stands in for the Python of an environment: makes a file of the right name and tells of it."""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment for both makers whose Python is a stand-in."""
    folder = tmp_path / "env"
    (folder / "bin").mkdir(parents=True)
    (folder / "maker.py").write_text(MAKER.replace("sys.prefix", repr(str(folder))))
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} {folder}/maker.py "$@"\n')
    python.chmod(0o755)
    for name in ("TORCH", "ONNX_BUILDER"):
        monkeypatch.setenv(f"SHARDYARD_ENV_{name}", str(folder))
    monkeypatch.setenv(FORMS_ENV, str(tmp_path / "forms"))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"file://{write_gguf(tmp_path / 'm.gguf')}"


def call(*args: str) -> Result:
    return CliRunner().invoke(main, ["prepare", *args], env={"NO_COLOR": "1"})


def made(*args: str) -> dict[str, str]:
    done = call(*args, "-o", "json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock"))


def test_a_form_is_made_once_and_found_again(source: str, environment: Path) -> None:
    row = made(source, "--form", "safetensors")
    assert (row["form"], row["dtype"]) == ("safetensors", "fp32")
    assert files(Path(row["path"])) == ["model.safetensors", forms.MANIFEST]
    (environment / "fails").touch()
    assert made(source, "--form", "safetensors") == row
    assert call(source, "--form", "safetensors", "--force").exit_code == 2
    assert made(source, "--form", "safetensors") == row


def test_a_graph_is_made_of_safetensors_that_are_made_first(source: str, tmp_path: Path) -> None:
    row = made(source, "--form", "onnx", "--dtype", "int4")
    assert (Path(row["path"]) / "model.onnx").read_text() == "safetensors-fp32"
    listed = json.loads(call("--list", "-o", "json").stdout)["forms"]
    assert [(f["form"], f["dtype"], f["source"]) for f in listed] == [
        ("onnx", "int4", source),
        ("safetensors", "fp32", source),
    ]
    assert "onnx" in call("--list").stdout
    folder = write_checkpoint(tmp_path / "hf")
    row = made(f"file://{folder}", "--form", "onnx")
    assert (Path(row["path"]) / "model.onnx").read_text() == "hf"
    assert (Path(row["path"]) / "tokenizer.json").exists()


def test_a_source_that_is_that_form_already_is_left_alone(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "hf")
    assert made(f"file://{folder}", "--form", "safetensors")["path"] == str(folder)


def test_progress_is_told_and_noise_is_not(source: str) -> None:
    done = call(source, "--form", "gguf")
    assert done.exit_code == 0
    assert "50%  half" in done.stderr
    assert "noise" not in done.output


@pytest.mark.parametrize(
    ("flag", "says"), [("fails", "the weights are torn"), ("dies", "out of memory")]
)
def test_a_failed_making_says_why_and_leaves_nothing(
    source: str, environment: Path, tmp_path: Path, flag: str, says: str
) -> None:
    (environment / flag).touch()
    done = call(source, "--form", "safetensors")
    assert done.exit_code == 2
    assert says in done.stderr
    assert files(tmp_path / "forms") == []
    (environment / flag).unlink()
    assert made(source, "--form", "safetensors")["form"] == "safetensors"


def test_a_missing_environment_comes_with_its_command(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHARDYARD_ENV_TORCH")
    monkeypatch.setenv("SHARDYARD_ENVS", str(tmp_path / "none"))
    done = call(source, "--form", "safetensors")
    assert done.exit_code == 2
    assert "hint: shardyard env create torch" in done.stderr


def test_a_full_disk_is_said_before_anything_is_made(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    done = call(source, "--form", "safetensors")
    assert done.exit_code == 2
    assert "0.0 GiB free" in done.stderr
    assert "SHARDYARD_FORMS" in done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "either a SOURCE or --list"),
        (("--list", "x"), "either a SOURCE or --list"),
        (("file:///m.gguf",), "--form is missing"),
        (("file:///no/m.gguf", "--form", "onnx"), "does not exist"),
        (("s3://b/m", "--form", "onnx"), "no known scheme"),
    ],
)
def test_bad_input_is_a_usage_error(args: tuple[str, ...], says: str) -> None:
    done = call(*args)
    assert done.exit_code == 2
    assert says in done.stderr


def test_what_cannot_be_made_is_said(source: str, tmp_path: Path) -> None:
    done = call(source, "--form", "onnx", "--dtype", "bf16")
    assert "onnx is not made in bf16" in done.stderr
    folder = write_checkpoint(tmp_path / "hf")
    done = call(f"file://{folder}", "--form", "gguf")
    assert "lies here as safetensors" in done.stderr
    assert done.exit_code == 2
