"""Which code this process runs: distribution version, hash of the three packages, Python. Must not know who compares."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

from .report import Versions

PACKAGES = ("placement", "actors", "orchestrator")


@functools.cache
def versions() -> Versions:
    """Of the packages as this process found them; read once."""
    return Versions(
        shardyard=_distribution(),
        code=code_hash(Path(__file__).resolve().parent.parent),
        python=platform.python_version(),
    )


def code_hash(root: Path) -> str:
    """16 hex digits over names and contents of the code and data files of the three packages below `root`."""
    digest = hashlib.sha256()
    for file in sorted(_files(root)):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _files(root: Path) -> list[Path]:
    return [
        file
        for package in PACKAGES
        for suffix in ("py", "toml")
        for file in (root / package).rglob(f"*.{suffix}")
    ]


def _distribution() -> str:
    try:
        return importlib.metadata.version("shardyard")
    except importlib.metadata.PackageNotFoundError:
        return "source"
