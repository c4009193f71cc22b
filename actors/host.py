"""The only door to the machine: probes read files, list folders and run tools through a `Host`, and nothing else.

Decides the caps (size, time, which folders tools come from). It must not know what anybody looks for: the same probe
runs on a real machine, on one below another root, and on a recording.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, Protocol

READ_CAP_BYTES = 1024 * 1024
OUTPUT_CAP_BYTES = 4 * 1024 * 1024
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A tool's answer.

    Attributes:
        rc: exit status; negative = the signal that ended it.
        ended: `timeout` and `output_cap` mean that we ended it; `out` is then what came before.
    """

    rc: int
    out: str
    err: str
    ended: Literal["exit", "timeout", "output_cap"] = "exit"


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


@dataclass(frozen=True, slots=True)
class RealHost:
    """The real machine; with `root`, its files below another folder (a container's view of the host, say)."""

    root: Path = Path("/")
    tool_directories: tuple[str, ...] = TOOL_DIRECTORIES

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
        plain = {**os.environ, "LC_ALL": "C", "TERM": "dumb", "NO_COLOR": "1"}
        try:
            process = subprocess.Popen(  # noqa: S603 - an absolute path from fixed folders, no shell
                [tool, *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=plain,
                cwd="/",
                process_group=0,
            )
        except OSError as error:
            return Completed(rc=126, out="", err=str(error))
        with process:
            return _collect(process, timeout_s)

    def env(self, name: str) -> str | None:
        """See `Host`."""
        return os.environ.get(name)

    def _tool(self, name: str) -> str | None:
        places = [name] if name.startswith("/") else [f"{d}/{name}" for d in self.tool_directories]
        return next((p for p in places if os.access(p, os.X_OK) and Path(p).is_file()), None)


@dataclass(frozen=True, slots=True)
class RecordedHost:
    """A machine replayed from a folder.

    `proc/`, `sys/` and `etc/` are as on the machine; `commands/<argv joined by _>.txt` is what a tool printed (it
    exited with 0); `host.toml` says where it is from, and holds environment variables under `[env]`.
    """

    directory: Path
    variables: Mapping[str, str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", self._facts().get("env", {}))

    def read(self, path: str) -> str | None:
        """See `Host`."""
        return _read_file(_below(self.directory, path))

    def list(self, path: str) -> tuple[str, ...]:
        """See `Host`."""
        return _list_folder(_below(self.directory, path))

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed | None:
        """See `Host`; the answer is there at once."""
        del timeout_s
        text = _read_file(self.directory / "commands" / f"{command_name(argv)}.txt")
        return None if text is None else Completed(rc=0, out=text, err="")

    def env(self, name: str) -> str | None:
        """See `Host`."""
        return self.variables.get(name)

    def _facts(self) -> dict[str, dict[str, str]]:
        return tomllib.loads(_read_file(self.directory / "host.toml") or "")


def command_name(argv: Sequence[str]) -> str:
    """The file name of a recorded command.

    >>> command_name(["/usr/bin/some-smi", "-j", "--all"])
    'some-smi_-j_--all'
    """
    return re.sub(r"[^A-Za-z0-9._=-]", "_", "_".join([Path(argv[0]).name, *argv[1:]]))


def _below(root: Path, path: str) -> Path:
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"a host path is absolute and has no '..': {path!r}")
    return root / path.lstrip("/")


def _read_file(path: Path) -> str | None:
    try:
        with _opened(path) as file:
            return (file.read(READ_CAP_BYTES) or b"").decode(errors="replace")
    except OSError:
        return None


def _opened(path: Path) -> IO[bytes]:
    return open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK))


def _list_folder(path: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(entry.name for entry in path.iterdir()))
    except OSError:
        return ()


def _collect(process: subprocess.Popen[bytes], timeout_s: float) -> Completed:
    """Both streams until the tool exits, the deadline, or the cap; then nothing of its group is left."""
    assert process.stdout is not None
    assert process.stderr is not None
    texts = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    try:
        ended = _drain(process.pid, texts, time.monotonic() + timeout_s)
    finally:
        _kill_group(process.pid)
    out, err = (bytes(text).decode(errors="replace") for text in texts.values())
    return Completed(rc=process.wait(), out=out, err=err, ended=ended)


def _drain(
    pid: int, texts: dict[int, bytearray], deadline: float
) -> Literal["exit", "timeout", "output_cap"]:
    exited = os.pidfd_open(pid)
    try:
        with selectors.DefaultSelector() as selector:
            for fd in (*texts, exited):
                selector.register(fd, selectors.EVENT_READ)
            return _until_closed(selector, pid, exited, texts, deadline)
    finally:
        os.close(exited)


def _until_closed(
    selector: selectors.BaseSelector,
    pid: int,
    exited: int,
    texts: dict[int, bytearray],
    deadline: float,
) -> Literal["exit", "timeout", "output_cap"]:
    while selector.get_map():
        ready = selector.select(max(0.0, deadline - time.monotonic()))
        if not ready:
            return "timeout"
        for key, _ in ready:
            if key.fd == exited:
                _kill_group(pid)  # what the tool left behind would hold its streams open
            elif data := os.read(key.fd, 65536):
                texts[key.fd] += data
                continue
            selector.unregister(key.fd)
        if sum(map(len, texts.values())) > OUTPUT_CAP_BYTES:
            return "output_cap"
    return "exit"


def _kill_group(pid: int) -> None:
    """Ends a tool with its children. It has not been waited for yet, so its number cannot be another's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
