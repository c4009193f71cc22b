"""Builds an ONNX decoder from a Hugging Face folder: `python -P -m actors.onnx.build HF_FOLDER OUT_FOLDER --dtype fp32`.

Runs with the interpreter of the environment `onnx-builder`, where torch, transformers and onnxruntime-genai live. Decides
the builder's options, that its result loads before anybody sees it, and what the result says of itself. It must not know
engines or nodes.

Standard output has one JSON object a line: `{"progress": 0.4, "stage": "layer 12"}`, at the end `{"progress": 1.0, "done":
OUT_FOLDER}` or `{"error": ..., "hint": ...}`. Exit status: 0 built, 1 not.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

MANIFEST = "shardyard-form.json"
GRAPH = "model.onnx"
TOOLS = ("onnxruntime-genai", "onnxruntime", "transformers", "torch")
PROVIDERS = {"fp32": "cpu", "int8": "cpu", "int4": "cpu", "fp16": "cuda"}
"""The builder's name of the target; it makes half precision for GPUs only."""
FOLDER_KEY = "session.model_external_initializers_file_folder_path"

_LAYER = re.compile(r"^Reading layer (\d+)")
_LAYERS_END, _SAVED, _LOADED = 0.6, 0.9, 0.97


class BuildFailed(Exception):
    """Why nothing was built, and what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class _Stages(io.TextIOBase):
    """What the builder prints: passed on to standard error, and read for the layer that it is at."""

    def __init__(self, layers: int, report: Callable[[float, str], None]) -> None:
        self._layers = max(1, layers)
        self._report = report
        self._line = ""

    def write(self, text: str, /) -> int:
        sys.stderr.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if found := _LAYER.match(line):
                done = (int(found[1]) + 1) / self._layers
                self._report(_LAYERS_END * min(1.0, done), f"layer {found[1]}")
            elif line.startswith("Saving ONNX model"):
                self._report(_LAYERS_END, "saving")
        return len(text)


def read_config(folder: Path) -> dict[str, Any]:
    """The model's configuration.

    Raises:
        BuildFailed: the folder is no model, or its weights are in files that run code when they are read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildFailed(
            f"{folder} has no readable config.json ({error})",
            "give a folder in Hugging Face's layout: config.json, tokenizer.json, *.safetensors",
        ) from None
    if not isinstance(config, dict):
        raise BuildFailed(f"{folder / 'config.json'} is no JSON object", "fetch the model again")
    if not any(folder.glob("*.safetensors")):
        raise BuildFailed(
            f"{folder} has no *.safetensors; pickle files (*.bin, *.pt) are not read, as they run code",
            "convert the weights to safetensors first",
        )
    return config


def build(source: Path, target: Path, dtype: str, report: Callable[[float, str], None]) -> None:
    """Writes the graph to `target`, a folder that does not exist yet.

    Raises:
        BuildFailed: with the cause.
    """
    config = read_config(source)
    if target.exists():
        raise BuildFailed(f"{target} exists", "remove it, or name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(target) as scratch:
        stages = _Stages(int(config.get("num_hidden_layers", 0)), report)
        with contextlib.redirect_stdout(stages):
            _run_builder(source, scratch / "form", scratch / "cache", dtype)
        report(_SAVED, "loading the result")
        _prove(scratch / "form")
        report(_LOADED, "writing the manifest")
        _write_manifest(scratch / "form", source, dtype)
        (scratch / "form").rename(target)


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_builder(source: Path, target: Path, cache: Path, dtype: str) -> None:
    """Logits of the last position only, no code from the model's folder, no hub."""
    builder = importlib.import_module("onnxruntime_genai.models.builder")

    provider = PROVIDERS[dtype]
    options = ["prune_lm_head=true", "hf_token=false", "hf_remote=false"]
    places = (str(source), str(target), dtype, provider, str(cache))
    try:
        extra = builder.parse_extra_options(None, *places, options)
        builder.create_model(None, places[0], places[1], dtype, provider, places[4], **extra)
    except NotImplementedError as error:
        raise BuildFailed(str(error), "serve it with another engine, e.g. torch or vllm") from error


def _prove(folder: Path) -> None:
    """Exporters have written graphs that no runtime takes; better to learn that here than on a serving node."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(FOLDER_KEY, str(folder))
    graph = (folder / GRAPH).read_bytes()
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BuildFailed(f"the graph was written but does not load: {error}") from error
    names = {given.name for given in session.get_inputs()}
    if not {"input_ids", "attention_mask", "past_key_values.0.key"} <= names:
        raise BuildFailed(
            f"the graph is no decoder with a KV cache: its inputs are {sorted(names)}"
        )


def _write_manifest(folder: Path, source: Path, dtype: str) -> None:
    manifest = {
        "form": "onnx",
        "dtype": dtype,
        "source": source.name,
        "tools": {tool: importlib.metadata.version(tool) for tool in TOOLS},
        "options": {"prune_lm_head": True, "provider": PROVIDERS[dtype]},
    }
    text = json.dumps(manifest, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _own_stdout() -> TextIO:
    """Standard output for our lines alone: whatever libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def main(arguments: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", maxsplit=1)[0])
    parser.add_argument("source", type=Path, metavar="HF_FOLDER")
    parser.add_argument("target", type=Path, metavar="OUT_FOLDER")
    parser.add_argument("--dtype", choices=sorted(PROVIDERS), default="fp32")
    given = parser.parse_args(arguments)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with _own_stdout() as out:

        def say(**fields: object) -> None:
            out.write(json.dumps(fields) + "\n")
            out.flush()

        try:
            source, target = given.source.resolve(), given.target.absolute()
            build(source, target, given.dtype, lambda done, stage: say(progress=done, stage=stage))
        except BuildFailed as error:
            say(error=str(error), hint=error.hint)
            return 1
        except Exception as error:  # noqa: BLE001 - whatever the builder's libraries raise
            say(
                error=f"{type(error).__name__}: {error}"[:2000], hint="the output above has details"
            )
            return 1
        say(progress=1.0, done=str(target))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
