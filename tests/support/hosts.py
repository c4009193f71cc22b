"""Machines for tests: in memory, or replayed from tests/recordings."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.host import Access, Fetched, RecordedHost, address_name, command_name
from actors.tools import Completed

RECORDINGS = Path(__file__).parent.parent / "recordings"


@dataclass(frozen=True)
class FakeHost:
    """A machine in memory.

    Attributes:
        files: absolute path -> text.
        tools: `command_name` of a command line -> output, or the whole `Completed`.
        variables: environment.
        links: path -> where it leads; everything below it leads there, too.
        denied: device files that may not be opened.
        libraries: `<library>_<question>` -> answer, or the whole `Completed`.
        fetches: URL -> body, or the whole `Fetched`.
        clock: answers to `clock_s`, one after the other; the last one stays.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str | Completed] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    denied: frozenset[str] = frozenset()
    libraries: Mapping[str, str | Completed] = field(default_factory=dict)
    fetches: Mapping[str, str | Fetched] = field(default_factory=dict)
    clock: list[float] = field(default_factory=lambda: [0.0])

    def read(self, path: str) -> str | None:
        return self.files.get(self._followed(path))

    def list(self, path: str) -> tuple[str, ...]:
        prefix = self._followed(path).rstrip("/") + "/"
        there = [*self.files, *self.links]
        below = (p.removeprefix(prefix) for p in there if p.startswith(prefix))
        return tuple(sorted({name.partition("/")[0] for name in below}))

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed | None:
        return _completed(self.tools.get(command_name(argv)))

    def env(self, name: str) -> str | None:
        return self.variables.get(name)

    def resolve(self, path: str) -> str | None:
        place = self._followed(path)
        there = place in self.files or bool(self.list(place))
        return place if there else None

    def access(self, path: str) -> Access:
        if path in self.denied:
            return "denied"
        return "ok" if self.resolve(path) is not None else "absent"

    def ask(self, library: str, question: str, timeout_s: float) -> Completed | None:
        return _completed(self.libraries.get(f"{library}_{question}"))

    def fetch(
        self, url: str, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Fetched | None:
        found = self.fetches.get(url) or self.fetches.get(address_name(url))
        return Fetched(status=200, text=found, seconds=0.01) if isinstance(found, str) else found

    def clock_s(self) -> float:
        return self.clock.pop(0) if len(self.clock) > 1 else self.clock[0]

    def _followed(self, path: str) -> str:
        for _ in range(8):
            link = next((k for k in self.links if path == k or path.startswith(f"{k}/")), None)
            if link is None:
                return path
            path = self.links[link] + path.removeprefix(link)
        return path

    def but(self, files: Mapping[str, str | None], **changes: Any) -> FakeHost:
        """The same machine with other files; None removes a file, or a folder. Other fields are replaced whole."""
        gone = tuple(path for path, text in files.items() if text is None)
        kept = {
            path: text
            for path, text in self.files.items()
            if not any(path == g or path.startswith(f"{g}/") for g in gone)
        }
        changed = {path: text for path, text in files.items() if text is not None}
        return replace(self, files={**kept, **changed}, **changes)


def _completed(found: str | Completed | None) -> Completed | None:
    return Completed(rc=0, out=found, err="") if isinstance(found, str) else found


def recordings(vendor: str) -> tuple[Path, ...]:
    """All recorded machines of a vendor's probe."""
    return tuple(sorted(path.parent for path in (RECORDINGS / vendor).glob("*/host.toml")))


def recorded(vendor: str, name: str) -> RecordedHost:
    """One recorded machine."""
    return RecordedHost(RECORDINGS / vendor / name)


def in_memory(vendor: str, name: str) -> FakeHost:
    """A recorded machine as a `FakeHost`, so that a test can change it."""
    root = RECORDINGS / vendor / name
    host = RecordedHost(root)
    there = [place for part in ("proc", "sys", "dev", "etc") for place in (root / part).rglob("*")]
    return FakeHost(
        files={
            f"/{place.relative_to(root).as_posix()}": place.read_text(errors="replace")
            for place in there
            if place.is_file() and not place.is_symlink()
        },
        tools=_answers(root / "commands"),
        variables=host.facts.get("env", {}),
        links={
            f"/{place.relative_to(root).as_posix()}": "/"
            + place.resolve().relative_to(root.resolve()).as_posix()
            for place in there
            if place.is_symlink()
        },
        denied=frozenset(p for p, told in host.facts.get("access", {}).items() if told == "denied"),
        libraries=_answers(root / "libraries"),
        fetches={
            place.stem: Fetched(**json.loads(place.read_text()))
            for place in (root / "fetches").glob("*.json")
        },
    )


def _answers(folder: Path) -> dict[str, str | Completed]:
    texts = {place.stem: place.read_text() for place in folder.glob("*.txt")}
    wholes = {p.stem: Completed(**json.loads(p.read_text())) for p in folder.glob("*.json")}
    return {**texts, **wholes}


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
