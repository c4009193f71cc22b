"""A machine as a recording: every installed probe looks through a host that takes notes, and the notes become a folder.

Decides when a recording is good: the probes find in it what they found on the machine. It must not know any vendor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from placement.errors import SpecError
from placement.ids import NodeId

from .capture_layout import write_recording
from .capture_notes import Notes, NotingHost
from .host import Host, RecordedHost
from .identifiers import LEAST, NAME_FILES, Disguise, disguise, identifiers_in, parts
from .machine import hostname, machine_id
from .names import STAND_IN_ENV
from .probe import Absent, Broken, Found, LiveProbe, Probe
from .redaction import HIDDEN, redacted
from .vendors import families
from .versions import versions

DEADLINE_S = 5.0
VERSION_TIMEOUT_S = 2.0
NODE = NodeId("captured")
"""The same on the machine and in the recording, so that ids are."""

_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
_MOST_DIGITS = 5
"""Of a number that tells nothing of anybody, such as a port."""

Probes = Mapping[str, Callable[[], Probe]]
_Look = tuple[Found | Absent | Broken, Mapping[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What became of it.

    Attributes:
        found: what each probe found, in words; absent hardware is left out.
        differences: what the probes find in the recording and did not on the machine, and the reverse; empty = good.
    """

    files: int
    found: tuple[tuple[str, str], ...]
    differences: tuple[str, ...]


def capture(
    source: Host,
    probes: Probes,
    directory: Path,
    salt: bytes,
    *,
    hashed: bool = True,
    deadline_s: float = DEADLINE_S,
) -> Captured:
    """Looks, writes and replays.

    Args:
        salt: of the hashes that stand for identifiers; a new one for each capture.
        hashed: False keeps serial numbers, UUIDs and names as they are.

    What is not finished leaves no recording behind: not an error, nor Ctrl-C.

    Raises:
        SpecError: the folder is not empty, or cannot be written.
    """
    _require_empty(directory)
    host = NotingHost(source)
    # A machine's names identify it wherever they stand, also where no probe asks for them.
    hostname(host)
    machine_id(host)
    looks = _looked(host, probes, deadline_s)
    notes = host.notes.copy()
    words = disguise(_identifiers(notes, looks) if hashed else (), salt)
    if hashed:
        _unname(notes)
    try:
        files = write_recording(
            notes, source, directory, _facts(source, notes), lambda text: words(redacted(text))
        )
        again = _looked(RecordedHost(directory), probes, deadline_s)
    except OSError as error:
        _emptied(directory)
        raise SpecError(f"{directory}: {error}", hint="name a folder of your own") from error
    except BaseException:
        _emptied(directory)
        raise
    return Captured(
        files=files,
        found=tuple((name, told) for name in looks if (told := _in_words(looks[name][0]))),
        differences=tuple(_differences(looks, again, words)),
    )


def _require_empty(directory: Path) -> None:
    """Before anything is looked at: that takes seconds."""
    try:
        wrong = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
        place = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    except OSError as error:
        raise SpecError(f"{directory}: {error}", hint="name a folder of your own") from error
    if wrong:
        raise SpecError(f"{directory} is not an empty folder", hint="name a new folder")
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise SpecError(f"{place} cannot be written to", hint="name a folder of your own")


def _emptied(directory: Path) -> None:
    """Takes back what was written into a folder that was empty; it stays itself."""
    for place in directory.iterdir() if directory.is_dir() else ():
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


def _unname(notes: Notes) -> None:
    """A name too short to be found in texts without harm is hidden where it is told as such."""
    for path in NAME_FILES:
        if len((notes.reads.get(path) or "").strip()) in range(1, LEAST):
            notes.reads[path] = f"{HIDDEN}\n"


def _looked(host: Host, probes: Probes, deadline_s: float) -> dict[str, _Look]:
    """All probes at once, each with one poll; what hangs or raises is broken."""
    looks: dict[str, _Look] = {}

    def look(name: str, make: Callable[[], Probe]) -> None:
        try:
            looks[name] = _look(make(), host)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin raises
            looks[name] = (Broken(reason=f"raised {type(error).__name__}: {error}"), {})

    threads = [
        threading.Thread(target=look, args=item, daemon=True) for item in sorted(probes.items())
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + deadline_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    hangs = (Broken(reason=f"no answer within {deadline_s:g} s"), {})
    return {name: looks.get(name, hangs) for name in sorted(probes)}


def _look(probe: Probe, host: Host) -> _Look:
    outcome = probe.probe(host, NODE)
    live = isinstance(outcome, Found) and isinstance(probe, LiveProbe)
    return outcome, probe.poll(host, outcome) if live else {}


def _in_words(outcome: Found | Absent | Broken) -> str:
    if isinstance(outcome, Broken):
        return f"broken: {outcome.reason}"
    if isinstance(outcome, Absent):
        return ""
    count = len(outcome.devices) + len(outcome.accelerators)
    broken = f", {len(outcome.broken)} broken" if outcome.broken else ""
    return f"{count} devices{broken}" if count or broken else ""


def _identifiers(notes: Notes, looks: Mapping[str, _Look]) -> set[str]:
    found = {
        word for path, text in notes.reads.items() if text for word in identifiers_in(path, text)
    }
    answers = (*notes.tools.values(), *notes.libraries.values())
    texts = [done.out + "\n" + done.err for done in answers if done is not None]
    texts += [answer.text for answer in notes.fetches.values() if answer is not None]
    # Folders are often named after what is in them, e.g. an address of a network interface.
    texts += [*notes.paths(), *(name for names in notes.lists.values() for name in names)]
    found |= {word for text in texts for word in identifiers_in("", text)}
    for outcome, _ in looks.values():
        for accelerator in outcome.accelerators if isinstance(outcome, Found) else ():
            told = (accelerator.serial, accelerator.uuid, accelerator.board)
            found |= {part for word in told if word for part in parts(word)}
    # A serial that is itself made of an identifier changes with that, not on its own.
    return found - {_digest(word) for word in found}


def _facts(source: Host, notes: Notes) -> dict[str, Any]:
    kernel = (source.read("/proc/sys/kernel/osrelease") or "").strip()
    by = f"shardyard {versions().shardyard}, Python {platform.python_version()}"
    told = source.facts if isinstance(source, RecordedHost) else {}
    pretended = bool(source.env(STAND_IN_ENV))
    return {
        "origin": "synthetic" if pretended else str(told.get("origin", "captured")),
        "date": datetime.now(UTC).date().isoformat(),
        "about": str(told.get("about") or f"captured by {by}")
        + (" where a stand-in pretends devices" if pretended else ""),
        "source": str(told.get("source") or "shardyard capture"),
        "kernel": kernel,
        "versions": dict(_software(source, notes)),
        "env": dict(_variables(notes)),
    }


def _software(source: Host, notes: Notes) -> Iterator[tuple[str, str]]:
    """Versions of drivers, packages and tools that had something to say here."""
    for family in families().values():
        text = source.read(family.version_file) if family.version_file else None
        if text and text.strip():
            yield f"driver {family.name}", text.strip()
        for package in family.packages:
            try:
                yield package, importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
    for tool in sorted({argv[0] for argv, done in notes.tools.items() if done is not None}):
        said = source.run([tool, "--version"], VERSION_TIMEOUT_S)
        if said is not None and said.rc == 0 and said.out.strip():
            yield tool, said.out.strip().splitlines()[0][:200]


def _variables(notes: Notes) -> Iterator[tuple[str, str]]:
    """Our own, those that select devices, small numbers; of others, and of secrets, only that they are set."""
    rules = [family.visible for family in families().values()]
    selecting = {name for rule in rules for name in (rule.variable, *rule.clear)}
    for name, value in sorted(notes.variables.items()):
        if value is not None:
            plain = value.isdecimal() and len(value) <= _MOST_DIGITS
            told = plain or name.startswith("SHARDYARD_") or name in selecting
            secret = any(word in name for word in _SECRETS)
            yield name, value if told and not secret else HIDDEN


def _differences(
    before: Mapping[str, _Look], after: Mapping[str, _Look], words: Disguise
) -> Iterator[str]:
    derived = _derived(words)
    for name, look in before.items():
        wanted = set(_lines(look, lambda text: derived(words(redacted(text)))))
        there = set(_lines(after[name], str))
        yield from (f"{name}: only on the machine: {line}" for line in sorted(wanted - there))
        yield from (f"{name}: only in the recording: {line}" for line in sorted(there - wanted))


def _derived(words: Disguise) -> Disguise:
    """Identities that are hashes of an identifier, as that of a processor is of the machine's id."""
    return Disguise({_digest(old): _digest(new) for old, new in words.words.items()})


def _digest(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()[:12]


def _lines(look: _Look, rename: Callable[[str], str]) -> Iterator[str]:
    """A look as lines whose order says nothing: identifiers decide it, and a recording has other ones."""
    outcome, readings = look
    if not isinstance(outcome, Found):
        yield _written(outcome, rename)
    else:
        for field in dataclasses.fields(outcome):
            value = getattr(outcome, field.name)
            if isinstance(value, Mapping):
                value = tuple((frozenset(ends), link) for ends, link in value.items())
            for member in value if isinstance(value, tuple) else (value,):
                yield f"{field.name} {_written(member, rename)}"
    for identity, reading in readings.items():
        yield f"reading of {rename(identity)}: {_written(reading, rename)}"


def _written(value: object, rename: Callable[[str], str]) -> str:
    """Like `repr`, with sets in order and texts renamed."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        told = (f"{name}={_written(getattr(value, name), rename)}" for name in names)
        return f"{type(value).__name__}({', '.join(told)})"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(_written(v, rename) for v in value))}}}"
    if isinstance(value, tuple):
        return f"({', '.join(_written(v, rename) for v in value)})"
    return repr(rename(str(value))) if isinstance(value, str) else repr(value)
