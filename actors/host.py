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

from .http_get import get
from .library import Libraries
from .tools import OUTPUT_CAP_BYTES, Completed, run_tool

READ_CAP_BYTES = 1024 * 1024
_STEP_BYTES = 16 * 1024
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


Access = Literal["absent", "denied", "ok"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An HTTP answer; `seconds` from the request to the whole body. `status` 0 = there was none, `text` is why."""

    status: int
    text: str
    seconds: float


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
        return _read_file(_below(self.root, path))

    def list(self, path: str) -> tuple[str, ...]:
        """See `Host`."""
        return _list_folder(_below(self.root, path))

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
        return _resolved(self.root, path)

    def access(self, path: str) -> Access:
        """See `Host`."""
        place = _below(self.root, path)
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
        status, text = get(url, timeout_s, OUTPUT_CAP_BYTES, headers or {})
        return Fetched(status=status, text=text, seconds=time.monotonic() - began)

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
    and `.json` are the same for a vendor's library, `fetches/<address>.json` is a `Fetched`. `host.toml` says where the
    recording is from (`origin` captured or synthetic), holds environment variables under `[env]`, and device files that
    may not be opened under `[access]`.
    """

    directory: Path
    facts: Mapping[str, Any] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        text = _read_file(self.directory / "host.toml") or ""
        object.__setattr__(self, "facts", tomllib.loads(text))

    def read(self, path: str) -> str | None:
        """See `Host`."""
        return _read_file(_below(self.directory, path))

    def list(self, path: str) -> tuple[str, ...]:
        """See `Host`."""
        return _list_folder(_below(self.directory, path))

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed | None:
        """See `Host`; the answer is there at once."""
        del timeout_s
        return self._completed(self.directory / "commands" / command_name(argv))

    def env(self, name: str) -> str | None:
        """See `Host`."""
        return self.facts.get("env", {}).get(name)

    def resolve(self, path: str) -> str | None:
        """See `Host`."""
        return _resolved(self.directory, path)

    def access(self, path: str) -> Access:
        """See `Host`."""
        told = self.facts.get("access", {}).get(path)
        if told in ("absent", "denied", "ok"):
            return told
        return "ok" if _below(self.directory, path).exists() else "absent"

    def ask(self, library: str, question: str, timeout_s: float) -> Completed | None:
        """See `Host`; the answer is there at once."""
        del timeout_s
        return self._completed(self.directory / "libraries" / command_name([library, question]))

    def fetch(
        self, url: str, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Fetched | None:
        """See `Host`; the answer is there at once."""
        del timeout_s, headers
        text = _read_file(self.directory / "fetches" / f"{address_name(url)}.json")
        return None if text is None else Fetched(**json.loads(text))

    def clock_s(self) -> float:
        """See `Host`: no time passes."""
        return 0.0

    def _completed(self, place: Path) -> Completed | None:
        text = _read_file(place.with_name(place.name + ".txt"))
        if text is not None:
            return Completed(rc=0, out=text, err="")
        whole = _read_file(place.with_name(place.name + ".json"))
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


def _resolved(root: Path, path: str) -> str | None:
    place = Path(os.path.realpath(_below(root, path)))
    base = Path(os.path.realpath(root))
    if not place.exists() or not place.is_relative_to(base):
        return None
    return f"/{place.relative_to(base)}" if place != base else "/"


def _below(root: Path, path: str) -> Path:
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"a host path is absolute and has no '..': {path!r}")
    return root / path.lstrip("/")


def _read_file(path: Path) -> str | None:
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


def _list_folder(path: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(entry.name for entry in path.iterdir()))
    except (OSError, ValueError):
        return ()
