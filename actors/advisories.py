"""Which software of others is too old to be safe, or unmaintained: `advisories.toml`, held against what is installed.

Knows the keys of the file; it must not know any product, nor what is done about one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from .version_range import within


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsafe:
    """Distributions that are unsafe below a version, and why."""

    packages: tuple[str, ...]
    version: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A product that nobody maintains; see the head of the file for the keys."""

    name: str
    packages: tuple[str, ...]
    words: tuple[str, ...]
    says: str


def unsafe(installed: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each distribution that is below its first safe version.

    Args:
        installed: normalised names and versions.

    >>> list(unsafe({"onnx": "1.20.1", "vllm": "0.32.0", "torch": "2.13.0+cpu"}))[0][:34]
    'onnx 1.20.1 is below 1.21.0: CVE-2'
    """
    for row in _table()[0]:
        for package in row.packages:
            version = installed.get(package)
            if version is not None and within(version, f"<{row.version}"):
                yield f"{package} {version} is below {row.version}: {row.why}"


def ended(installed: Mapping[str, str], texts: Mapping[str, str]) -> Iterator[tuple[Ended, str]]:
    """Unmaintained products that are installed, or named in a text, with where each was seen.

    Args:
        texts: where a text stands -> the text.

    >>> [(row.name, where) for row, where in ended({}, {"SHARDYARD_REMOTE": "http://tgi:80"})]
    [('TGI', 'SHARDYARD_REMOTE')]
    """
    for row in _table()[1]:
        for package in row.packages:
            if package in installed:
                yield row, f"{package} {installed[package]}"
        pattern = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(re.escape, row.words))})(?![a-z0-9])")
        yield from ((row, where) for where, text in texts.items() if pattern.search(text.lower()))


@cache
def _table() -> tuple[tuple[Unsafe, ...], tuple[Ended, ...]]:
    rows: dict[str, list[dict[str, Any]]] = tomllib.loads(
        (files("actors") / "advisories.toml").read_text("utf-8")
    )
    old = tuple(Unsafe(**row | {"packages": tuple(row["packages"])}) for row in rows["unsafe"])
    gone = tuple(
        Ended(**row | {"packages": tuple(row["packages"]), "words": tuple(row["words"])})
        for row in rows["ended"]
    )
    return old, gone
