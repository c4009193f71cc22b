"""Reads the header of a GGUF file: what sizes a model, its tokenizer and its chat template. Never the weights.

The file may be anybody's, so every count is checked against what the file can hold before anything is made of it.
It must not know engines, nor build a tokenizer.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from placement.modelspec import ModelFacts

from .errors import ModelError

Scalar = str | int | float | bool
Value = Scalar | tuple["Value", ...]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_HEADER_BYTES = 64 * 1024**2
MOST_ELEMENTS = 4 * 1024**2
MOST_KEYS = 65_536
MOST_LAYERS = 10_000
MOST_TENSORS = 1_048_576
MOST_DIMENSIONS = 8
MOST_NESTING = 3

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_HINT = "fetch the file again, or name another one"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What stands before the weights.

    Attributes:
        values: the key-value part, e.g. `tokenizer.ggml.tokens`; arrays are tuples.
    """

    path: str
    facts: ModelFacts
    values: Mapping[str, Value]

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings; empty when the key is absent."""
        value = self.values.get(key, ())
        if not isinstance(value, tuple):
            raise ModelError(f"{self.path}: {key} is not an array", hint=_HINT)
        return tuple(v for v in value if isinstance(v, str))

    def whole(self, key: str) -> int | None:
        """A whole number, or None when the key is absent."""
        value = self.values.get(key)
        return value if isinstance(value, int) else None

    def text(self, key: str) -> str:
        """A string; empty when the key is absent."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""


def read_gguf(path: str | os.PathLike[str]) -> GgufHeader:
    """The header of a file, kept until size or time of change differ.

    Raises:
        ModelError: the file cannot be read, is not GGUF, is cut short or contradicts itself.
    """
    try:
        stat = Path(path).stat()
        if not S_ISREG(stat.st_mode):
            raise ModelError(f"{path} is not a file", hint=_HINT)
        return _read(str(path), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from None


@lru_cache(maxsize=4)
def _read(path: str, size: int, mtime_ns: int) -> GgufHeader:
    with Path(path).open("rb") as file:
        try:
            return _header(path, _Cursor(file, size))
        except _Malformed as error:
            raise ModelError(f"{path} is not a usable GGUF file: {error}", hint=_HINT) from None


class _Malformed(Exception):
    """Why a header cannot be trusted."""


class _Cursor:
    """Takes bytes off the front of a file and never promises more than it holds."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > self.size:
            raise _Malformed(f"it is cut short: byte {end} is needed, it has {self.size}")
        if end > MOST_HEADER_BYTES:
            raise _Malformed(f"its header is longer than {MOST_HEADER_BYTES} bytes")
        self.position = end
        data = self._file.read(count)
        if len(data) != count:
            raise _Malformed("it became shorter while it was read")
        return data

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def count(self, most: int, what: str) -> int:
        value = self.u64()
        if value > most:
            raise _Malformed(f"it claims {value} {what}, more than {most}")
        return value

    def text(self) -> str:
        return self.take(self.u64()).decode("utf-8", errors="replace")

    def value(self, kind: int, nesting: int = 0) -> Value:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(nesting + 1)
        return self._numbers(kind, 1)[0]

    def _array(self, nesting: int) -> tuple[Value, ...]:
        kind = self.u32()
        count = self.count(MOST_ELEMENTS, "array elements")
        if kind == _STRING:
            return tuple([self.text() for _ in range(count)])
        if kind == _ARRAY:
            if nesting >= MOST_NESTING:
                raise _Malformed(f"its arrays are nested deeper than {MOST_NESTING}")
            return tuple([self._array(nesting + 1) for _ in range(count)])
        return self._numbers(kind, count)

    def _numbers(self, kind: int, count: int) -> tuple[Scalar, ...]:
        if kind not in _NUMBERS:
            raise _Malformed(f"value type {kind} is unknown")
        layout = struct.Struct(f"<{count}{_NUMBERS[kind]}")
        return layout.unpack(self.take(layout.size))


def _header(path: str, cursor: _Cursor) -> GgufHeader:
    if cursor.take(4) != MAGIC:
        raise _Malformed("it does not start with GGUF")
    version = cursor.u32()
    if version not in VERSIONS:
        raise _Malformed(f"version {version} is not one of {VERSIONS}")
    tensors = cursor.count(MOST_TENSORS, "tensors")
    keys = cursor.count(MOST_KEYS, "keys")
    values = dict(_entry(cursor) for _ in range(keys))
    shapes = dict(_tensor(cursor) for _ in range(tensors))
    facts = _facts(values, shapes, _data_bytes(values, shapes, cursor))
    return GgufHeader(path=path, facts=facts, values=values)


def _entry(cursor: _Cursor) -> tuple[str, Value]:
    key = cursor.text()
    return key, cursor.value(cursor.u32())


@dataclass(frozen=True, slots=True)
class _Tensor:
    elements: int
    rows: int
    offset: int


def _tensor(cursor: _Cursor) -> tuple[str, _Tensor]:
    name = cursor.text()
    rank = cursor.u32()
    if not 0 < rank <= MOST_DIMENSIONS:
        raise _Malformed(f"tensor {name[:80]!r} has {rank} dimensions")
    shape = [cursor.u64() for _ in range(rank)]
    cursor.u32()  # the storage type; sizes come from the file itself
    return name, _Tensor(math.prod(shape), shape[-1], cursor.u64())


def _data_bytes(
    values: Mapping[str, Value], tensors: Mapping[str, _Tensor], cursor: _Cursor
) -> int:
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
        raise _Malformed(f"its alignment is {alignment!r}")
    start = -(-cursor.position // alignment) * alignment
    held = cursor.size - start
    last = max((t.offset for t in tensors.values()), default=-1)
    if last >= held:
        raise _Malformed(
            f"it is cut short: a tensor starts at byte {start + last} of {cursor.size}"
        )
    return max(held, 0)


def _facts(
    values: Mapping[str, Value], tensors: Mapping[str, _Tensor], data_bytes: int
) -> ModelFacts:
    parts = values.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise _Malformed(f"it is one of {parts} parts; merge them into one file first")
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise _Malformed("it names no architecture")

    def figure(key: str, default: int | None = None) -> int:
        return _whole(values, f"{architecture}.{key}", default)

    hidden, heads = figure("embedding_length"), figure("attention.head_count")
    tokens = values.get("tokenizer.ggml.tokens", ())
    vocab = len(tokens) if isinstance(tokens, tuple) else 0
    parameters = sum(t.elements for t in tensors.values())
    if parameters > data_bytes * 32:
        raise _Malformed(f"it claims {parameters} weights in {data_bytes} bytes")
    return ModelFacts(
        parameters=float(parameters),
        layers=_whole(values, f"{architecture}.block_count", None, most=MOST_LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=figure("attention.head_count_kv", heads),
        head_dim=figure("attention.key_length", max(1, hidden // heads)),
        ffn=figure("feed_forward_length", 4 * hidden),
        vocab=figure("vocab_size", vocab or _embedding_rows(tensors)),
        window=figure("context_length"),
        architecture=architecture,
        weights_bytes=data_bytes,
    )


def _embedding_rows(tensors: Mapping[str, _Tensor]) -> int | None:
    table = tensors.get("token_embd.weight")
    return table.rows if table else None


def _whole(values: Mapping[str, Value], key: str, default: int | None, *, most: int = 2**40) -> int:
    """A positive whole number; of a figure per layer the largest counts."""
    value = values.get(key, default)
    if isinstance(value, tuple):
        value = max((v for v in value if isinstance(v, int)), default=None)
    if value is None:
        raise _Malformed(f"{key} is missing")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise _Malformed(f"{key} is {value!r}")
    return value
