"""What a Furiosa Executable Bundle (`.fxb`) says of itself, read without the vendor's software.

A bundle is a zip archive of kernels with a `manifest.json`. Decides whether such a file can be a bundle at all, and which
sizes it was compiled for; reads a few MiB at most, whatever the file claims. It must not know engines or devices.

The manifest's fields and defaults are what furiosa-llm 2026.4's own reader takes: `make vendor` holds the two against each other.
"""

from __future__ import annotations

import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from .errors import LoadFailed

MANIFEST = "manifest.json"
MANIFEST_BYTES = 8 << 20
DIRECTORY_BYTES = 16 << 20
"""Most that is read of the archive's table of contents and of the manifest as it is stored, together."""
DEFAULT_TP = 8
"""Of a manifest that names no parallelism; the vendor's reader says so, too."""
REBUILD = "build it again with: fxb build MODEL OUT.fxb -tp PES"

_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError,
    NotImplementedError, KeyError, struct.error, OverflowError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle's sizes.

    Attributes:
        tp: processing elements that share each layer.
        pp: pipeline stages, each of `tp` processing elements.
        batches: of its decode kernels, ascending; empty = it has none.
        lengths: of the sequences that its decode kernels attend to, ascending.
        longest: of all its kernels; 0 = it does not say.
        architecture: as `config.json` calls it; empty = it does not say.
        compiler, server: versions that built it; empty = it does not say.
    """

    tp: int
    pp: int
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    longest: int
    architecture: str
    compiler: str
    server: str

    @property
    def pes(self) -> int:
        """Processing elements that one copy of the model takes."""
        return self.tp * self.pp


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file.

    Raises:
        LoadFailed: it is none, or a torn one.
    """
    if not path.is_file():
        raise LoadFailed(f"there is no bundle at {path}", hint=REBUILD)
    return parse_manifest(_manifest(path), path)


def parse_manifest(manifest: object, place: Path) -> Bundle:
    """The bundle that a manifest describes; `place` is for messages.

    Raises:
        LoadFailed: a field that is needed is missing or no number.

    >>> parse_manifest({"format_version": 2, "kernels": {}}, Path("x.fxb")).pes
    8
    """
    if not isinstance(manifest, dict):
        raise LoadFailed(f"{place}: {MANIFEST} is no object", hint=REBUILD)
    fields = cast(dict[str, Any], manifest)
    split = fields.get("parallel_config")
    if split is None:  # the oldest form has the figure beside it, and no pipelines
        split = {"tensor_parallel_size": fields.get("tensor_parallel_size", DEFAULT_TP)}
    if not isinstance(split, dict):
        raise LoadFailed(f"{place}: parallel_config is no object", hint=REBUILD)
    attention = list(_attention(fields.get("kernels"), place))
    decoding = [(batch, length) for batch, length, cached in attention if length - cached == 1]
    return Bundle(
        tp=_size(split, "tensor_parallel_size", place),
        pp=_size({"pipeline_parallel_size": 1} | split, "pipeline_parallel_size", place),
        batches=tuple(sorted({batch for batch, _ in decoding})),
        lengths=tuple(sorted({length for _, length in decoding})),
        longest=max((length for _, length, _ in attention), default=0),
        architecture=_word(fields.get("model"), "architecture"),
        compiler=_release(fields, "furiosa_compiler"),
        server=_release(fields, "furiosa_llm"),
    )


class _Sparing:
    """A file of which only so much is read: a table of contents may claim to be as large as the file."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._left = file, most
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"its table of contents has more than {DIRECTORY_BYTES} bytes")
        return data


def _manifest(path: Path) -> object:
    try:
        with (
            path.open("rb") as file,
            zipfile.ZipFile(cast(BinaryIO, _Sparing(file, DIRECTORY_BYTES))) as archive,
            archive.open(MANIFEST) as stored,
        ):
            text = stored.read(MANIFEST_BYTES + 1)
        if len(text) > MANIFEST_BYTES:
            raise ValueError(f"{MANIFEST} has more than {MANIFEST_BYTES} bytes")
        return json.loads(text)
    except _UNREADABLE as error:
        raise LoadFailed(
            f"{path} is no readable bundle: {str(error)[:200] or type(error).__name__}",
            hint=f"copy it again if it was torn on the way; {REBUILD}",
        ) from None


def _attention(kernels: object, place: Path) -> Iterator[tuple[int, int, int]]:
    """Batch, length of the sequence and how much of it is cached, of each attention kernel."""
    if not isinstance(kernels, dict):
        raise LoadFailed(f"{place}: {MANIFEST} lists no kernels", hint=REBUILD)
    for entries in kernels.values():
        for entry in entries if isinstance(entries, list) else ():
            bucket = entry.get("bucket") if isinstance(entry, dict) else None
            sizes = bucket.get("attention") if isinstance(bucket, dict) else None
            if isinstance(sizes, dict):
                batch, length = (_size(sizes, k, place) for k in ("batch_size", "attention_size"))
                yield batch, length, _size(sizes, "kv_cache_size", place, least=0)


def _size(fields: dict[str, Any], name: str, place: Path, least: int = 1) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 32:
        raise LoadFailed(f"{place}: {name} is {str(value)[:60]!r}, not a size", hint=REBUILD)
    return value


def _word(fields: object, name: str) -> str:
    value = fields.get(name) if isinstance(fields, dict) else None
    return value[:100] if isinstance(value, str) else ""


def _release(fields: dict[str, Any], name: str) -> str:
    versions = fields.get("versions")
    return _word(versions.get(name) if isinstance(versions, dict) else None, "version")
