"""What was noted of a machine as a folder that `RecordedHost` replays.

Decides where each answer is laid: files at the place to which the links on their way lead, links as on the machine. It
must not know any vendor, nor what the texts say.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .capture_notes import Notes
from .host import LISTINGS, Host, address_name, command_name
from .tools import Completed

_LITERAL = "/proc/"
"""Its links lead to whoever looks (`self`), which a recording must not keep."""

_MOST_NAME_BYTES = 240
"""Of a file's name, with room for a suffix; file systems have 255."""

Rename = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class _Tree:
    """Files and links by the path at which they really are, and by folder the names of all that is there."""

    host: Host
    files: dict[str, str] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    known: dict[str, str | None] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """Where a path is once the links on it are followed; every link is remembered."""
        if path.startswith(_LITERAL):
            return path
        place = ""
        for name in path.split("/")[1:]:
            here = f"{place}/{name}"
            there = self._resolved(here)
            if there is not None and there != here and not there.startswith(_LITERAL):
                self.links[here] = there
                here = there
            place = here
        return place

    def present(self, folder: str, names: Iterable[str]) -> None:
        """Things that are there, and of which nothing else is known."""
        self.names.setdefault(folder or "/", set()).update(filter(_recordable, names))

    def above(self) -> set[str]:
        """Every folder on the way to something, which a machine that changes may have called a file before."""
        below = (*self.files, *self.names, *self.links)
        return {parent.as_posix() for path in below for parent in PurePosixPath(path).parents}

    def _resolved(self, path: str) -> str | None:
        if path not in self.known:
            self.known[path] = self.host.resolve(path)
        return self.known[path]


def write_recording(
    notes: Notes, source: Host, directory: Path, facts: Mapping[str, Any], rename: Rename
) -> int:
    """Writes the folder and says how many files it has. `host.toml`, which makes it a recording, comes last.

    Args:
        source: the machine, asked only whether a noted path is a link, or there at all.
        facts: of `host.toml`: texts, and tables of texts.
        rename: applied to every text and every name.

    Raises:
        OSError: the folder cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tree = _tree(notes, source)
    above = tree.above()
    for path, text in sorted(tree.files.items()):
        if path not in above:
            _write(_inside(directory, rename(path)), rename(text))
    for path, target in sorted(tree.links.items()):
        _link(directory, rename(path), rename(target))
    _write_listings(tree.names, directory, rename)
    _write_answers(notes, directory, rename)
    _write(directory / "host.toml", rename(_toml({**facts, **_tables(notes)})))
    return sum(1 for place in directory.rglob("*") if place.is_file())


def _tree(notes: Notes, source: Host) -> _Tree:
    tree = _Tree(source)
    for path in sorted(filter(_recordable, notes.paths())):
        names, text = notes.lists.get(path, ()), notes.reads.get(path)
        if text is not None:
            tree.files[tree.place(path)] = text
        elif names:
            tree.present(tree.place(path), names)
        elif _exists(notes, source, path):
            folder, _, name = tree.place(path).rpartition("/")
            tree.present(folder, [name] if name else [])
    return tree


def _exists(notes: Notes, source: Host, path: str) -> bool:
    return notes.accesses.get(path, "absent") != "absent" or source.resolve(path) is not None


def _write_listings(names: Mapping[str, set[str]], directory: Path, rename: Rename) -> None:
    """Names that no file, folder or link of the recording has already: most of `/dev`, and what may not be read."""
    told: dict[str, list[str]] = {}
    for folder, members in sorted(names.items()):
        place = _inside(directory, rename(folder))
        only = sorted(n for n in map(rename, members) if not os.path.lexists(place / n))
        if only:
            told[rename(folder)] = only
    if told:
        _write(directory / LISTINGS, json.dumps(told, indent=1))


def _recordable(path: str) -> bool:
    """Whether a file can have this path below a folder of ours."""
    parts = path.split("/")
    longest = max(len(part.encode(errors="replace")) for part in parts)
    return ".." not in parts and "\0" not in path and longest <= _MOST_NAME_BYTES


def _inside(directory: Path, path: str) -> Path:
    return directory.joinpath(*(part for part in path.split("/") if part))


def _write(place: Path, text: str) -> None:
    if place.is_dir():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text.encode("utf-8", errors="replace"))


def _link(directory: Path, path: str, target: str) -> None:
    place, there = _inside(directory, path), _inside(directory, target)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists() and not place.is_symlink():
        with contextlib.suppress(FileExistsError):
            place.symlink_to(os.path.relpath(there, place.parent))


def _write_answers(notes: Notes, directory: Path, rename: Rename) -> None:
    for argv, done in notes.tools.items():
        name = command_name([rename(word) for word in argv])
        _write_completed(directory / "commands", name, done, rename)
    for asked, done in notes.libraries.items():
        name = command_name([rename(word) for word in asked])
        _write_completed(directory / "libraries", name, done, rename)
    for url, answer in notes.fetches.items():
        if answer is not None:
            text = rename(json.dumps(asdict(answer), indent=1))
            _write(directory / "fetches" / f"{address_name(rename(url))}.json", text)


def _write_completed(folder: Path, name: str, done: Completed | None, rename: Rename) -> None:
    if done is None or not _recordable(name):
        return
    if done == Completed(rc=0, out=done.out, err=""):
        _write(folder / f"{name}.txt", rename(done.out))
    else:
        said = {key: rename(v) if isinstance(v, str) else v for key, v in asdict(done).items()}
        _write(folder / f"{name}.json", json.dumps(said, indent=1))


def _tables(notes: Notes) -> dict[str, dict[str, str]]:
    accesses = {p: told for p, told in sorted(notes.accesses.items()) if told != "absent"}
    return {"access": dict(accesses)} if accesses else {}


def _toml(facts: Mapping[str, Any]) -> str:
    """Texts first, then the tables of texts."""
    flat = [f"{key} = {_quoted(v)}" for key, v in facts.items() if isinstance(v, str)]
    tables = [
        "\n".join([f"\n[{key}]", *(f"{_quoted(k)} = {_quoted(v)}" for k, v in rows.items())])
        for key, rows in facts.items()
        if isinstance(rows, Mapping) and rows
    ]
    return "\n".join([*flat, *tables]) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(
        "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text), ensure_ascii=False
    )
