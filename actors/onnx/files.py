"""Which files an ONNX graph may bring along: those of its own folder, whole, and nobody else's.

Checked on real paths right before the graph is loaded. Decides what external data is refused; it must not know what a
graph computes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LoadFailed

_HINT = "make the model's onnx form again: shardyard prepare SOURCE --form onnx"
_DEEPEST = 64
"""Messages inside messages; real graphs have some ten, and a parser refuses more than a hundred."""


@dataclass(frozen=True, slots=True)
class External:
    """A tensor whose values lie in another file, as the graph says it."""

    tensor: str
    location: str
    offset: str
    length: str


def external_tensors(message: Any, depth: int = 0) -> Iterator[External]:
    """All tensors with external data, wherever in a model they are: also in attributes, subgraphs and functions.

    Args:
        message: any protobuf message of ONNX.

    Raises:
        LoadFailed: it is nested deeper than any real model.
    """
    if depth > _DEEPEST:
        raise LoadFailed(f"the graph is nested deeper than {_DEEPEST} levels", hint=_HINT)
    if message.DESCRIPTOR.name == "TensorProto":
        if message.external_data:
            given = {entry.key: entry.value for entry in message.external_data}
            yield External(
                message.name,
                given.get("location", ""),
                given.get("offset", "0"),
                given.get("length", ""),
            )
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if field.is_repeated else (value,):
            yield from external_tensors(part, depth + 1)


def check_externals(folder: Path, found: Iterable[External]) -> dict[str, int]:
    """Refuses data outside the folder, reached over a link of any kind, missing or cut short.

    Returns:
        Size in bytes of each data file by its name.

    Raises:
        LoadFailed: with the tensor and the file.
    """
    sizes: dict[str, int] = {}
    for one in found:
        if one.location not in sizes:
            sizes[one.location] = _size(folder, one)
        _check_range(one, sizes[one.location])
    return sizes


def _size(folder: Path, one: External) -> int:
    path = folder / one.location
    if not one.location or "\0" in one.location or not _inside(folder, path):
        raise LoadFailed(
            f"tensor {one.tensor!r} wants its data from {one.location!r},"
            f" which is outside the model's folder {folder}",
            hint=_HINT,
        )
    try:
        status = os.lstat(path)
    except OSError as error:
        raise LoadFailed(
            f"{path}, data of tensor {one.tensor!r}: {error.strerror}", hint=_HINT
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise LoadFailed(f"{path}, data of tensor {one.tensor!r}, is no regular file", hint=_HINT)
    if status.st_nlink > 1:
        raise LoadFailed(
            f"{path}, data of tensor {one.tensor!r}, has {status.st_nlink} hard links,"
            " so it may be somebody else's file",
            hint=f"copy it: cp {path} {path}.own && mv {path}.own {path}",
        )
    return status.st_size


def _inside(folder: Path, path: Path) -> bool:
    """Whether a path stays in the folder, both as it is written and after every link is followed."""
    written = Path(os.path.normpath(path))
    real = Path(os.path.realpath(path))
    base = Path(os.path.realpath(folder))
    return written.is_relative_to(folder) and real.is_relative_to(base) and real == base / path.name


def _check_range(one: External, size: int) -> None:
    try:
        offset = int(one.offset or "0")
        length = int(one.length) if one.length else max(0, size - offset)
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0 or offset > size or length > size - offset:
        raise LoadFailed(
            f"tensor {one.tensor!r} is bytes {one.offset or 0} + {one.length or 'rest'} of {one.location!r},"
            f" which has {size}: the file is cut short or not of this graph",
            hint=_HINT,
        )
