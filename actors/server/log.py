"""What a vendor's server prints: secrets hidden, lines bounded, kept in two files of bounded size.

Decides what of a flood is kept: its beginning, its end and how much was left out between. Standard library only, as the
supervisor hosts it. It must not know whose lines they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from ..redaction import HIDDEN, redacted

LINE_BYTES = 4096
"""Longest line; more of it is left out."""
FILE_BYTES = 4 << 20
"""A file that grows beyond it becomes `.1`, in place of the one before it."""
RATE_BYTES = 256 << 10
"""Kept for each second; more is counted only."""
BURST_BYTES = 1 << 20
TAIL_BYTES = 8 << 10
"""Of what is left out, the end that is kept until it is known to be the end."""
KEPT_LINES = 400
"""Native libraries may print a hundred lines after the one that says why the server ended."""
_MARGIN = 1024
"""Read beyond the longest line, so that a secret across its end is still recognised."""
_SHORTEST_SECRET = 6
_SECRET_WORDS = frozenset(
    [
        "KEY",
        "APIKEY",
        "TOKEN",
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "CREDENTIAL",
        "CREDENTIALS",
    ]
)


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values of variables whose names say that they are secret, the longest first.

    >>> secrets_of({"HF_TOKEN": "abcdefgh", "TOKENIZERS_PARALLELISM": "disabled"})
    ('abcdefgh',)
    """
    found = {
        line
        for name, value in environment.items()
        if not _SECRET_WORDS.isdisjoint(re.split(r"[^A-Z0-9]+", name.upper()))
        for line in value.splitlines()
        if len(line) >= _SHORTEST_SECRET
    }
    return tuple(sorted(found, key=lambda secret: (-len(secret), secret)))


def _spellings(secret: str) -> set[str]:
    """How programs print a text: as it is, as JSON, as Python and in addresses."""
    return {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")}


class ServerLog:
    """Takes bytes as they arrive, tells the last lines.

    Args:
        path: of the file; empty = only the last lines are kept.
        secrets: texts that must not be written.
    """

    def __init__(
        self,
        path: str,
        secrets: Iterable[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = _Files(Path(path)) if path else None
        spelled = {spelling for secret in secrets for spelling in _spellings(secret)}
        self._secrets = sorted(spelled, key=len, reverse=True)
        self._clock = clock
        self._credit = float(BURST_BYTES)
        self._at = clock()
        self._partial = b""
        self._mid_line = False  # the beginning of the line under way was left out
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._dropped = 0
        self._dropped_lines = 0
        self._tail = b""

    @property
    def lines(self) -> list[str]:
        """The last lines so far."""
        return list(self._lines)

    def feed(self, data: bytes) -> None:
        """Takes what was printed next."""
        if not self._affordable(len(data)):
            self._drop(data)
            return
        self._tell_dropped()
        self._tail = b""
        self._take(data)

    def _affordable(self, count: int) -> bool:
        now = self._clock()
        self._credit = min(BURST_BYTES, self._credit + (now - self._at) * RATE_BYTES)
        self._at = now
        if count > self._credit:
            return False
        self._credit -= count
        return True

    def _drop(self, data: bytes) -> None:
        self._partial, self._mid_line = b"", True
        self._dropped += len(data)
        self._dropped_lines += data.count(b"\n")
        self._tail = (self._tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]

    def _tell_dropped(self) -> None:
        if self._dropped:
            self._keep([f"[{self._dropped_lines} lines left out, {self._dropped} bytes: too fast]"])
        self._dropped = self._dropped_lines = 0

    def _take(self, data: bytes) -> None:
        pieces = (self._partial + data).replace(b"\r", b"\n").split(b"\n")
        self._partial = pieces.pop()[: LINE_BYTES + _MARGIN]
        if self._mid_line and pieces:
            self._mid_line = False
            del pieces[0]
        self._keep(self._readable(piece) for piece in pieces if piece)

    def _readable(self, line: bytes) -> str:
        text = line[: LINE_BYTES + _MARGIN].decode(errors="replace")
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        text = redacted(text).rstrip()
        if len(line) > LINE_BYTES:
            return f"{text[: max(0, LINE_BYTES - _MARGIN)]} [cut]"
        return text

    def _keep(self, lines: Iterable[str]) -> None:
        kept = list(lines)
        self._lines.extend(kept)
        if self._files is not None and kept:
            self._files.write(("\n".join(kept) + "\n").encode(errors="replace"))

    def rest(self) -> None:
        """Nothing came for a while: the end of a flood is told."""
        self._tell_dropped()
        tail, self._tail = self._tail, b""
        if tail:
            self._mid_line = True
            self._take(tail)

    def end(self) -> list[str]:
        """The last lines, once nothing more comes; a line without an end is one, too."""
        self.rest()
        if self._partial and not self._mid_line:
            self._keep([self._readable(self._partial)])
        self._partial = b""
        if self._files is not None:
            self._files.close()
        return list(self._lines)


class _Files:
    """A file and the one before it. A disk that takes no more costs lines, never the server."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._size = 0

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._descriptor is None:
                self._open()
            elif self._size + len(data) > FILE_BYTES:
                self.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._open()
            if self._descriptor is not None:
                self._size += os.write(self._descriptor, data)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
