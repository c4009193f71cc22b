"""What lies beside an ONNX graph: the notes of its builder, which may name files and libraries.

Decides which of those names are honoured. It must not know graphs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LoadFailed

NOTES = "genai_config.json"
CUSTOM_OPS = "SHARDYARD_ORT_CUSTOM_OPS"
"""Variable of the engine's environment: libraries with custom operators that may be loaded."""

_MAX_NOTES_BYTES = 1 << 20
_REBUILD = "make the model's onnx form again: shardyard prepare SOURCE --form onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderNotes:
    """The builder's figures; 0 or empty = not said.

    Attributes:
        graph: name of the graph file.
        libraries: custom-op libraries that it names, as they are written.
    """

    graph: str = ""
    head_dim: int = 0
    vocab: int = 0
    window: int = 0
    libraries: tuple[str, ...] = ()

    def named_libraries(self, folder: Path, allowed: tuple[Path, ...]) -> tuple[Path, ...]:
        """The libraries that it names, by their real paths.

        Raises:
            LoadFailed: one of them is not among the allowed ones.
        """
        real = [Path(os.path.realpath(folder / name)) for name in self.libraries]
        for path in real:
            if path not in allowed:
                raise LoadFailed(
                    f"{folder / NOTES} names the library {path}, whose code would run",
                    hint=f"if you trust it, set {CUSTOM_OPS} to its absolute path on this node",
                )
        return tuple(real)


def allowed_libraries(variable: str) -> tuple[Path, ...]:
    """Real paths of the libraries in the variable's value.

    Raises:
        LoadFailed: one is not an absolute path of a file.
    """
    found: list[Path] = []
    for text in filter(None, variable.split(os.pathsep)):
        path = Path(text)
        if not path.is_absolute() or not path.is_file():
            raise LoadFailed(
                f"{CUSTOM_OPS} has {text!r}, which is no absolute path of a file",
                hint="correct or unset it on this node",
            )
        found.append(Path(os.path.realpath(path)))
    return tuple(found)


def read_notes(folder: Path) -> FolderNotes:
    """The notes of a folder; a folder without any is fine.

    Raises:
        LoadFailed: they are torn, or name a file that is not in the folder.
    """
    file = folder / NOTES
    if not file.is_file():
        return FolderNotes()
    try:
        with file.open("rb") as opened:
            notes = json.loads(opened.read(_MAX_NOTES_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadFailed(f"{file} cannot be read: {error}", hint=_REBUILD) from None
    model = _table(notes, "model")
    decoder = _table(model, "decoder")
    entries = list(_entries(notes))
    for key, value in entries:
        if key.endswith("filename"):
            _check_name(file, value)
    libraries = [value for key, value in entries if key.startswith("custom_ops")]
    if not all(isinstance(name, str) for name in libraries):
        raise LoadFailed(f"{file}: a custom-op library is no text", hint=_REBUILD)
    return FolderNotes(
        graph=str(decoder.get("filename") or ""),
        head_dim=_count(decoder, "head_size"),
        vocab=_count(model, "vocab_size"),
        window=_count(model, "context_length"),
        libraries=tuple(filter(None, libraries)),
    )


def _table(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _count(table: dict[str, Any], key: str) -> int:
    value = table.get(key, 0)
    return value if isinstance(value, int) and value > 0 else 0


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with a plain value, at any depth; a list's items count as its key's."""
    waiting = [("", value)]
    while waiting:
        key, found = waiting.pop()
        if isinstance(found, dict):
            waiting += found.items()
        elif isinstance(found, list):
            waiting += [(key, item) for item in found]
        else:
            yield key, found


def _check_name(file: Path, value: Any) -> None:
    plain = isinstance(value, str) and value == Path(value).name and value not in ("", ".", "..")
    if value is not None and value != "" and not plain:
        raise LoadFailed(
            f"{file} names the file {value!r}, which is not in its folder", hint=_REBUILD
        )
