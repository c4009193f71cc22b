"""Machines for tests: in memory, or replayed from tests/recordings."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actors.host import Completed, RecordedHost, command_name

RECORDINGS = Path(__file__).parent.parent / "recordings"


@dataclass(frozen=True)
class FakeHost:
    """A machine with these files (absolute path -> text), tools (`command_name` -> output) and variables."""

    files: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def list(self, path: str) -> tuple[str, ...]:
        prefix = path.rstrip("/") + "/"
        below = (p.removeprefix(prefix) for p in self.files if p.startswith(prefix))
        return tuple(sorted({name.partition("/")[0] for name in below}))

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed | None:
        text = self.tools.get(command_name(argv))
        return None if text is None else Completed(rc=0, out=text, err="")

    def env(self, name: str) -> str | None:
        return self.variables.get(name)

    def but(self, files: Mapping[str, str | None]) -> FakeHost:
        """The same machine with other files; None removes a file, or a folder."""
        gone = tuple(path for path, text in files.items() if text is None)
        kept = {
            path: text
            for path, text in self.files.items()
            if not any(path == g or path.startswith(f"{g}/") for g in gone)
        }
        changed = {path: text for path, text in files.items() if text is not None}
        return FakeHost({**kept, **changed}, self.tools, self.variables)


def recordings(vendor: str) -> tuple[Path, ...]:
    """All recorded machines of a vendor's probe."""
    return tuple(sorted(path.parent for path in (RECORDINGS / vendor).glob("*/host.toml")))


def recorded(vendor: str, name: str) -> RecordedHost:
    """One recorded machine."""
    return RecordedHost(RECORDINGS / vendor / name)


def in_memory(vendor: str, name: str) -> FakeHost:
    """A recorded machine as a `FakeHost`, so that a test can change it."""
    root = RECORDINGS / vendor / name
    folders = [root / part for part in ("proc", "sys", "etc")]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return FakeHost({f"/{file.relative_to(root).as_posix()}": file.read_text() for file in files})


def gone(pid: int, limit_s: float = 5.0) -> bool:
    """Waits for a process to end; True once it has, also when it still waits to be collected."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], limit_s)[0])
    finally:
        os.close(descriptor)
