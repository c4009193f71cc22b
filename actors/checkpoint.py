"""Reads the descriptions in a Hugging Face model directory: what sizes a model. Never the weights.

It must not know engines, nor build a tokenizer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from placement.modelspec import ModelFacts

from .errors import ModelError

CONFIG = "config.json"
MOST_JSON_BYTES = 64 * 1024**2


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no such file.

    Raises:
        ModelError: it is too large, cannot be read, or is not a JSON object.
    """
    try:
        if not path.exists():
            return {}
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ModelError(f"{path} is larger than {MOST_JSON_BYTES} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="fetch the model again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} is not a JSON object", hint="fetch the model again")
    return found


def read_checkpoint(folder: Path) -> ModelFacts:
    """The facts of a model directory, from its `config.json` and the headers of its safetensors files.

    Raises:
        ModelError: there is no `config.json`, or it does not describe a decoder.
    """
    config = read_json(folder / CONFIG)
    if not config:
        raise ModelError(
            f"{folder} has neither a GGUF file nor a {CONFIG}", hint="name a model directory"
        )
    config = config.get("text_config") or config
    heads, hidden = (
        _whole(folder, config, "num_attention_heads"),
        _whole(folder, config, "hidden_size"),
    )
    parameters, weights_bytes = _weights(folder)
    return ModelFacts(
        parameters=float(parameters),
        layers=_whole(folder, config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_whole(folder, config, "num_key_value_heads", heads),
        head_dim=_whole(folder, config, "head_dim", max(1, hidden // heads)),
        ffn=_whole(folder, config, "intermediate_size", 4 * hidden),
        vocab=_whole(folder, config, "vocab_size"),
        window=_whole(folder, config, "max_position_embeddings"),
        architecture=str(config.get("model_type", "")),
        weights_bytes=weights_bytes,
    )


def _whole(folder: Path, config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**40:
        raise ModelError(
            f"{folder / CONFIG}: {key} is {value!r}, not a positive whole number",
            hint="give the model's `facts` in the spec",
        )
    return value


def _weights(folder: Path) -> tuple[int, int]:
    """Number of weights and bytes of all safetensors files of a directory."""
    parameters = size_bytes = 0
    for path in sorted(folder.glob("*.safetensors")):
        header = _safetensors_header(path)
        header.pop("__metadata__", None)
        try:
            parameters += sum(math.prod(tensor["shape"]) for tensor in header.values())
            size_bytes += sum(t["data_offsets"][1] - t["data_offsets"][0] for t in header.values())
        except (KeyError, TypeError, IndexError):
            raise ModelError(f"{path} has a broken header", hint="fetch the model again") from None
    return parameters, size_bytes


def _safetensors_header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MOST_JSON_BYTES:
                raise ModelError(f"{path} claims a header of {length} bytes")
            found = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="fetch the model again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} has a broken header", hint="fetch the model again")
    return found
