"""Reads the descriptions in a model directory, Hugging Face's or that of an ONNX builder: what sizes a model. Never the weights.

It must not know engines, nor build a tokenizer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from placement.modelspec import ModelFacts

from .errors import ModelError

CONFIG = "config.json"
GENAI_CONFIG = "genai_config.json"
DESCRIPTIONS = (CONFIG, GENAI_CONFIG)
"""Files that tell what a model is, the more telling first."""
MOST_JSON_BYTES = 64 * 1024**2
MOST_LAYERS = 10_000
MOST_DIMENSIONS, MOST_ELEMENTS = 16, 2**63
_OTHER_WEIGHTS = ("*.onnx", "*.onnx.data", "*.onnx_data", "openvino_*.bin", "*.rbln", "*.fxb")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no such file.

    Raises:
        ModelError: it is too large, cannot be read, or is not a JSON object.
    """
    try:
        if not path.exists():
            return {}
        if not path.is_file():  # reading a pipe would never end
            raise ModelError(f"{path} is no regular file", hint="fetch the model again")
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ModelError(f"{path} is larger than {MOST_JSON_BYTES} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="fetch the model again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} is not a JSON object", hint="fetch the model again")
    return found


def read_checkpoint(folder: Path) -> ModelFacts:
    """The facts of a model directory, from its description and the headers of its safetensors files.

    Where the weights are in another format, their number follows from the shape, and their size is that of the files.

    Raises:
        ModelError: there is no description, or it is not of a decoder.
    """
    config = read_json(folder / CONFIG) or _from_genai(read_json(folder / GENAI_CONFIG))
    if not config:
        raise ModelError(
            f"{folder} has neither a GGUF file nor a {CONFIG}", hint="name a model directory"
        )
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) and inner else config
    heads, hidden = (
        _whole(folder, config, "num_attention_heads"),
        _whole(folder, config, "hidden_size"),
    )
    parameters, weights_bytes = _weights(folder)
    facts = ModelFacts(
        parameters=float(parameters),
        layers=_whole(folder, config, "num_hidden_layers", most=MOST_LAYERS),
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
    if parameters or not (size_bytes := _other_weights(folder)):
        return facts
    counted = _parameters(facts, tied=bool(config.get("tie_word_embeddings")))
    return replace(facts, parameters=counted, weights_bytes=size_bytes)


def _from_genai(described: Mapping[str, Any]) -> dict[str, Any]:
    """What an ONNX builder notes of a decoder, in Hugging Face's words."""
    model = described.get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(decoder, dict):
        return {}
    return {
        "num_hidden_layers": decoder.get("num_hidden_layers"),
        "hidden_size": decoder.get("hidden_size"),
        "num_attention_heads": decoder.get("num_attention_heads"),
        "num_key_value_heads": decoder.get("num_key_value_heads"),
        "head_dim": decoder.get("head_size"),
        "vocab_size": model.get("vocab_size"),
        "max_position_embeddings": model.get("context_length"),
        "model_type": model.get("type", ""),
    }


def _parameters(facts: ModelFacts, *, tied: bool) -> float:
    """The weights of a decoder with a gated feed-forward network, from its shape."""
    attention = 2 * facts.hidden * facts.head_dim * (facts.heads + facts.kv_heads)
    layers = facts.layers * (attention + 3 * facts.hidden * facts.ffn)
    return float(layers + facts.vocab * facts.hidden * (1 if tied else 2))


def _other_weights(folder: Path) -> int:
    """Bytes of the weights of a directory that has no safetensors files."""
    files = (path for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
    return sum(path.stat().st_size for path in files)


def _whole(
    folder: Path,
    config: Mapping[str, Any],
    key: str,
    default: int | None = None,
    *,
    most: int = 2**40,
) -> int:
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise ModelError(
            f"{folder / CONFIG}: {key} is {str(value)[:40]}, not a whole number from 1 to {most}",
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
            parameters += sum(_elements(tensor["shape"]) for tensor in header.values())
            size_bytes += sum(t["data_offsets"][1] - t["data_offsets"][0] for t in header.values())
        except (KeyError, TypeError, IndexError):
            raise ModelError(f"{path} has a broken header", hint="fetch the model again") from None
    if not (0 <= parameters < MOST_ELEMENTS and 0 <= size_bytes < MOST_ELEMENTS):
        raise ModelError(f"{folder} claims impossible sizes", hint="fetch the model again")
    return parameters, size_bytes


def _elements(shape: Any) -> int:
    """Weights of a tensor; a shape that nobody could multiply out is none."""
    sizes = list(shape)
    sound = all(type(size) is int and 0 <= size < MOST_ELEMENTS for size in sizes)
    if len(sizes) > MOST_DIMENSIONS or not sound:
        raise TypeError("a shape that is none")
    return math.prod(sizes)


def _safetensors_header(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise ModelError(f"{path} is no regular file", hint="fetch the model again")
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
