"""What a model folder in Hugging Face layout may hold before an engine opens it: readable weights, and no code.

Decides what is refused and why. It must not know engines, nor read a weight.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from .errors import LoadFailed

Weights = Literal["safetensors", "pickle"]

_PICKLES = ("*.bin", "*.pt", "*.pth")
_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt")
"""Pickles that trainers leave beside a model and no engine opens."""


def checked_weights(folder: Path, *, allow_pickle: bool) -> Weights:
    """The kind of weights to load from the folder.

    Args:
        allow_pickle: pickles, which run code when they are read, may be loaded when there is nothing else.

    Raises:
        LoadFailed: no such folder, no configuration, code that it wants run, or no weights that may be loaded.
    """
    refuse_code(folder)
    return _weights(folder, allow_pickle=allow_pickle)


def refuse_code(folder: Path) -> None:
    """Refuses a model that wants code of its own run.

    A configuration may name such code although no engine here runs it; that is harmless when the code is not there.

    Raises:
        LoadFailed: see above; also when the folder is no model.
    """
    wanted = {*_code(_object(folder / "config.json"))}
    if (folder / "tokenizer_config.json").exists():
        wanted |= {*_code(_object(folder / "tokenizer_config.json"))}
    files = sorted(path.name for path in folder.glob("*.py"))
    elsewhere = sorted(name for name in wanted if "--" in name)
    if wanted and (files or elsewhere):
        raise LoadFailed(
            f"{folder} wants code of its own run: auto_map names {min(wanted)},"
            f" from {', '.join(files or elsewhere)[:200]}",
            hint="trust_remote_code stays off here; if the engine knows the architecture by itself, take"
            " auto_map out of config.json and tokenizer_config.json, and the .py files out of the folder",
        )


def quantised(folder: Path) -> bool:
    """Whether the checkpoint says by itself how its weights are quantised.

    Raises:
        LoadFailed: its configuration cannot be read.
    """
    return bool(_object(folder / "config.json").get("quantization_config"))


def lora_rank(folder: Path, *, allow_pickle: bool) -> int:
    """The rank of an adapter in a folder of PEFT's layout.

    Raises:
        LoadFailed: it is none, or its weights may not be loaded.
    """
    rank = _object(folder / "adapter_config.json").get("r")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise LoadFailed(
            f"{folder / 'adapter_config.json'} gives no rank: r is {rank!r}",
            hint="point the adapter's path at a folder that PEFT's save_pretrained wrote",
        )
    _weights(folder, allow_pickle=allow_pickle)
    return rank


def _weights(folder: Path, *, allow_pickle: bool) -> Weights:
    if any(folder.glob("*.safetensors")):
        return "safetensors"
    pickles = sorted(
        path.name for kind in _PICKLES for path in folder.glob(kind) if path.name not in _NO_WEIGHTS
    )
    if not pickles:
        raise LoadFailed(
            f"{folder} holds no weights: no file ends in .safetensors",
            hint="make the folder with: shardyard prepare SOURCE --form safetensors",
        )
    if not allow_pickle:
        raise LoadFailed(
            f"{folder} holds weights only as pickles ({', '.join(pickles[:3])}), which run code when they are read",
            hint="convert them to safetensors, or set allow_pickle: true for this model if you trust its author",
        )
    return "pickle"


def _code(config: Mapping[str, Any]) -> Iterator[str]:
    """What `auto_map` names: classes in files of the folder, or of another repository (`owner/name--file.Class`)."""
    named = config.get("auto_map")
    for value in named.values() if isinstance(named, dict) else [named] if named else []:
        for name in value if isinstance(value, list) else [value]:
            if name is not None:
                yield str(name)


def _object(path: Path) -> Mapping[str, Any]:
    """A JSON file that holds an object."""
    if path.exists() and not path.is_file():  # reading a pipe would never end
        raise LoadFailed(f"{path} is no regular file", hint="fetch or prepare the model again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if not path.parent.is_dir():
            raise LoadFailed(
                f"{path.parent or 'no model path'} is no folder of a model",
                hint="make one with: shardyard prepare SOURCE --form safetensors",
            ) from None
        raise LoadFailed(
            f"{path} cannot be read: {error}", hint="fetch or prepare the model again"
        ) from None
    if not isinstance(content, dict):
        raise LoadFailed(f"{path} holds no JSON object", hint="fetch or prepare the model again")
    return content
