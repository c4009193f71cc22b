"""Files of a machine whose root is a folder: capped, never blocking, and never out of that folder by a link.

Decides what can be asked of files at all. It must not know whether the machine is real or recorded.
"""

from __future__ import annotations

import os
from pathlib import Path

READ_CAP_BYTES = 1024 * 1024
_STEP_BYTES = 16 * 1024


def followed(root: Path, path: str) -> str | None:
    """Where a path leads, whether something is there or not; None = out of the root."""
    place = Path(os.path.realpath(below(root, path)))
    base = Path(os.path.realpath(root))
    if not place.is_relative_to(base):
        return None
    return f"/{place.relative_to(base)}" if place != base else "/"


def resolved(root: Path, path: str) -> str | None:
    """Where a path leads; None = nothing is there."""
    place = followed(root, path)
    return place if place is not None and below(root, place).exists() else None


def below(root: Path, path: str) -> Path:
    """The place of an absolute path.

    Raises:
        ValueError: it is relative, or leads upwards.
    """
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"a host path is absolute and has no '..': {path!r}")
    return root / path.lstrip("/")


def read_file(path: Path) -> str | None:
    """The first MiB of a file; None when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):  # a name with a NUL is no name
        return None
    try:
        return _capped(descriptor).decode(errors="replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _capped(descriptor: int) -> bytes:
    """In small steps: most files here are a few bytes, and a buffer of the cap's size costs more than they do."""
    text = bytearray()
    while len(text) < READ_CAP_BYTES:
        data = os.read(descriptor, min(_STEP_BYTES, READ_CAP_BYTES - len(text)))
        if not data:
            break
        text += data
    return bytes(text)


def list_folder(path: Path) -> tuple[str, ...]:
    """The names in a folder, sorted; empty when it cannot be listed."""
    try:
        return tuple(sorted(entry.name for entry in path.iterdir()))
    except (OSError, ValueError):
        return ()
