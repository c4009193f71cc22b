"""The only door to the machine: probes read files, list folders and run tools through a `Host`, and nothing else.

Decides the caps (size, time, which folders tools come from). It must not know what anybody looks for: the same probe
runs on a real machine, on one below another root, and on a recording.
"""

from __future__ import annotations

import json
import os
import re
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from placement.errors import SpecError

from .http_get import get
from .library import Libraries
from .rooted_files import below, followed, list_folder, read_file, resolved
from .tools import OUTPUT_CAP_BYTES, Completed, run_tool

TOOL_DIRECTORIES = (
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/bin",
    "/sbin",
    "/opt/rocm/bin",
    "/usr/local/cuda/bin",
)
"""Where tools are looked for, in this order; never the user's PATH, which anybody can shadow."""


LISTINGS = "listings.json"
"""In a recording: folder -> names of what is there without a text."""
WRITES_ONE = "shardyard capture DIRECTORY writes a sound one"

Access = Literal["absent", "denied", "ok"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An HTTP answer; `seconds` from the request to the whole body. `status` 0 = there was none, `text` is why.

    Attributes:
        private: whoever answered has an address that is not public.
    """

    status: int
    text: str
    seconds: float
    private: bool = False


class Host(Protocol):
    """A machine, or a recording of one. Paths are absolute; nothing here raises for what is absent."""

    def read(self, path: str) -> str | None:
        """The text of a file, its first MiB; None when it is absent or cannot be read."""
        ...

    def list(self, path: str) -> tuple[str, ...]:
        """The names in a folder, sorted; empty when it is absent or cannot be read."""
        ...

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed | None:
        """Runs a tool without a shell; None when the machine does not have it."""
        ...

    def env(self, name: str) -> str | None:
        """An environment variable."""
        ...

    def resolve(self, path: str) -> str | None:
        """Where a path leads once every link on it is followed (sysfs joins its folders by links); None when absent."""
        ...

    def access(self, path: str) -> Access:
        """Whether a device file is there and may be opened for reading and writing."""
        ...

    def ask(self, library: str, question: str, timeout_s: float) -> Completed | None:
        """What a vendor's library answers (`actors/libraries/<library>.py`), as text in `out`.

        None when no such library is installed; a library that hangs or crashes ends like a tool that does.
        """
        ...

    def fetch(
        self, url: str, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Fetched | None:
        """GET over HTTP, redirects not followed. Without a whole answer in time `status` is 0 and `text` says why.

        None where nobody was asked: a recording that has no such answer.
        """
        ...

    def clock_s(self) -> float:
        """Monotonic seconds, for rates from counters; a recording stands still."""
        ...


@dataclass(frozen=True, slots=True)
class RealHost:
    """The real machine; with `root`, its files below another folder (a container's view of the host, say)."""

    root: Path = Path("/")
    tool_directories: tuple[str, ...] = TOOL_DIRECTORIES
    libraries: Libraries = field(default_factory=Libraries, compare=False)

    def read(self, path: str) -> str | None:
        """See `Host`. Undecodable bytes are replaced; a FIFO never blocks."""
        return read_file(below(self.root, path))

    def list(self, path: str) -> tuple[str, ...]:
        """See `Host`."""
        return list_folder(below(self.root, path))

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed | None:
        """See `Host`. The tool gets a process group of its own, which ends with the deadline."""
        tool = self._tool(argv[0])
        if tool is None:
            return None
        return run_tool([tool, *argv[1:]], timeout_s)

    def env(self, name: str) -> str | None:
        """See `Host`."""
        return os.environ.get(name)

    def resolve(self, path: str) -> str | None:
        """See `Host`."""
        return resolved(self.root, path)

    def access(self, path: str) -> Access:
        """See `Host`."""
        place = below(self.root, path)
        if not place.exists():
            return "absent"
        return "ok" if os.access(place, os.R_OK | os.W_OK) else "denied"

    def ask(self, library: str, question: str, timeout_s: float) -> Completed | None:
        """See `Host`. The library lives in a child process, which is kept for the next question."""
        return self.libraries.ask(library, question, timeout_s)

    def fetch(
        self, url: str, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Fetched | None:
        """See `Host`."""
        began = time.monotonic()
        status, text, private = get(url, timeout_s, OUTPUT_CAP_BYTES, headers or {})
        seconds = time.monotonic() - began
        return Fetched(status=status, text=text, seconds=seconds, private=private)

    def clock_s(self) -> float:
        """See `Host`."""
        return time.monotonic()

    def _tool(self, name: str) -> str | None:
        places = [name] if name.startswith("/") else [f"{d}/{name}" for d in self.tool_directories]
        return next((p for p in places if os.access(p, os.X_OK) and Path(p).is_file()), None)


@dataclass(frozen=True, slots=True)
class RecordedHost:
    """A machine replayed from a folder.

    `proc/`, `sys/`, `dev/` and `etc/` are as on the machine, links too. `commands/<argv joined by _>.txt` is what a tool
    printed when it exited with 0; with `.json` instead, it is the whole `Completed`. `libraries/<library>_<question>.txt`
    and `.json` are the same for a vendor's library, `fetches/<address>.json` is a `Fetched`. `listings.json` has the
    names of what is there without a text: it was only listed, or may not be read. `host.toml` says where the recording
    is from (`origin` captured or synthetic), holds environment variables under `[env]`, and device files that may not
    be opened under `[access]`.

    Raises:
        SpecError: `host.toml` or `listings.json` cannot be read as such; with the line.
    """

    directory: Path
    facts: Mapping[str, Any] = field(init=False, compare=False)
    named: Mapping[str, frozenset[str]] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", _facts(self.directory / "host.toml"))
        object.__setattr__(self, "named", _named(self.directory / LISTINGS))

    def read(self, path: str) -> str | None:
        """See `Host`."""
        return read_file(below(self.directory, path))

    def list(self, path: str) -> tuple[str, ...]:
        """See `Host`."""
        there = list_folder(below(self.directory, path))
        named = self.named.get(followed(self.directory, path) or "")
        return tuple(sorted(named.union(there))) if named else there

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed | None:
        """See `Host`; the answer is there at once."""
        del timeout_s
        return self._completed(self.directory / "commands" / command_name(argv))

    def env(self, name: str) -> str | None:
        """See `Host`."""
        return self.facts.get("env", {}).get(name)

    def resolve(self, path: str) -> str | None:
        """See `Host`."""
        there = resolved(self.directory, path)
        if there is not None or not self.named:
            return there
        place = followed(self.directory, path) or "/"
        folder, _, name = place.rpartition("/")
        named = place in self.named or name in self.named.get(folder or "/", ())
        return place if named else None

    def access(self, path: str) -> Access:
        """See `Host`."""
        told = self.facts.get("access", {}).get(path)
        if told in ("absent", "denied", "ok"):
            return told
        return "ok" if self.resolve(path) is not None else "absent"

    def ask(self, library: str, question: str, timeout_s: float) -> Completed | None:
        """See `Host`; the answer is there at once."""
        del timeout_s
        return self._completed(self.directory / "libraries" / command_name([library, question]))

    def fetch(
        self, url: str, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Fetched | None:
        """See `Host`; the answer is there at once."""
        del timeout_s, headers
        text = read_file(self.directory / "fetches" / f"{address_name(url)}.json")
        return None if text is None else Fetched(**json.loads(text))

    def clock_s(self) -> float:
        """See `Host`: no time passes."""
        return 0.0

    def _completed(self, place: Path) -> Completed | None:
        text = read_file(place.with_name(place.name + ".txt"))
        if text is not None:
            return Completed(rc=0, out=text, err="")
        whole = read_file(place.with_name(place.name + ".json"))
        return None if whole is None else Completed(**json.loads(whole))


def command_name(argv: Sequence[str]) -> str:
    """The file name of a recorded command.

    >>> command_name(["/usr/bin/some-smi", "-j", "--all"])
    'some-smi_-j_--all'
    """
    return re.sub(r"[^A-Za-z0-9._=-]", "_", "_".join([Path(argv[0]).name, *argv[1:]]))


def address_name(url: str) -> str:
    """The file name of a recorded fetch.

    >>> address_name("http://npu-1:8000/v1/models")
    'http___npu-1_8000_v1_models'
    """
    return re.sub(r"[^A-Za-z0-9._=-]", "_", url)


def _facts(place: Path) -> Mapping[str, Any]:
    """What `host.toml` says; nothing where there is none."""
    try:
        facts = tomllib.loads(read_file(place) or "")
    except tomllib.TOMLDecodeError as error:
        raise SpecError(
            f"{place}: {error}", hint="shardyard capture DIRECTORY writes one"
        ) from None
    for key in ("env", "access"):
        table = facts.get(key, {})
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            raise SpecError(
                f"{place}: [{key}] should be a table of texts, not {table!r:.80}", hint=WRITES_ONE
            )
    return facts


def _named(place: Path) -> Mapping[str, frozenset[str]]:
    text = read_file(place)
    if text is None:
        return {}
    try:
        told = json.loads(text)
        return {folder: frozenset(map(str, names)) for folder, names in told.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{place}: should be folders with lists of names: {error}", hint=WRITES_ONE
        ) from None
