"""The folder under `$SHARDYARD_STATE`: what this user's Shardyard started here, its secrets, and who may change that.

Decides how these files survive a crash (new file, synced, renamed) and who may read them (their owner only). It must
not know how processes are started or ended, nor what the secrets open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import structlog
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import ControlError

log = structlog.get_logger()

STATE_CORRUPT = "state.corrupt"

T = TypeVar("T")

RunMode = Literal["foreground", "lab", "detached", "node", "joined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """One process that we started; number and start time together never mean another one.

    Attributes:
        start_ticks: field 22 of `/proc/PID/stat`, clock ticks since boot.
        role: unique in its run, e.g. `ray-head`.
        run_id: mark of the run in its environment and its children's.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    pid: int
    start_ticks: int
    pgid: int
    role: str
    argv0: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything that one owner started, complete before anybody waits for it.

    Attributes:
        mode: `foreground` and `lab` end with their owner; `detached`, `node` and `joined` outlive it.
        address: of the Ray cluster, `host:port`.
        ports: bound by what was started.
        temp_prefix: only folders at or below it are ever removed.
        temp_dirs: Ray's session folders.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    run_id: str
    mode: RunMode
    owner_pid: int
    owner_start_ticks: int
    address: str = ""
    ports: tuple[int, ...] = ()
    temp_prefix: str = ""
    temp_dirs: tuple[str, ...] = ()
    processes: tuple[ProcessRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Made once per state folder: of the frames, of the control API, of Ray."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    frame_secret: str
    control_token: str
    ray_token: str

    def __repr__(self) -> str:
        return "Secrets(***)"


_RUN = TypeAdapter(RunRecord)
_SECRETS = TypeAdapter(Secrets)


def new_run_id() -> str:
    """A name for a run that nobody else has."""
    return secrets.token_hex(8)


class StateDir:
    """Opens the folder, making it with mode 700.

    Raises:
        ControlError: it belongs to another user, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        hint = "set SHARDYARD_STATE to a folder of your own"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
            if status.st_uid != os.geteuid():
                raise ControlError(f"{self.path} belongs to another user", hint=hint)
            if stat.S_IMODE(status.st_mode) != 0o700:
                self.path.chmod(0o700)
        except OSError as error:
            raise ControlError(f"cannot use {self.path}: {error.strerror}", hint=hint) from error

    @property
    def logs(self) -> Path:
        """Where processes that we start write to."""
        return self.path / "logs"

    @property
    def ray_token_path(self) -> Path:
        """Ray's token alone in a file, as Ray wants it; written by `secrets`."""
        return self.path / "ray_token"

    def read_run(self) -> RunRecord | None:
        """What is recorded as started; None when nothing is.

        Raises:
            ControlError: the record is damaged; it is kept aside, so that the next call finds none.
        """
        return self._read("run.json", _RUN)

    def write_run(self, run: RunRecord) -> None:
        """Returns once the record is on disk."""
        _write(self.path / "run.json", _RUN.dump_json(run, indent=1))

    def clear_run(self) -> None:
        """Forgets the record: nothing of it is left."""
        (self.path / "run.json").unlink(missing_ok=True)
        _sync(self.path)

    def secrets(self) -> Secrets:
        """The secrets, made at the first call.

        Raises:
            ControlError: others can read the file, or it is damaged.
        """
        path = self.path / "secrets.json"
        _refuse_shared(path)
        known = self._read("secrets.json", _SECRETS)
        if known is None:
            known = Secrets(
                frame_secret=secrets.token_hex(32),
                control_token=secrets.token_hex(32),
                ray_token=secrets.token_hex(32),
            )
            _write(path, _SECRETS.dump_json(known))
        _refuse_shared(self.ray_token_path)
        _write(self.ray_token_path, known.ray_token.encode())
        return known

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Holds the folder alone; freed with the context or with the process, however it ends.

        Raises:
            ControlError: another process holds it.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take(descriptor, self.path)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def _read(self, name: str, shape: TypeAdapter[T]) -> T | None:
        path = self.path / name
        try:
            return shape.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            aside = path.with_name(f"{name}.corrupt")
            path.replace(aside)
            log.error(STATE_CORRUPT, kept=str(aside), errors=error.error_count())  # noqa: TRY400 - values stay out of logs
            raise ControlError(
                f"{path} is damaged; it is kept as {aside.name}",
                hint="type the command again; `shardyard doctor` finds processes that were left",
                kept=str(aside),
            ) from None


def _take(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        raise ControlError(
            f"another shardyard command (pid {holder}) is at work on {path}",
            hint="wait for it, or end it with Ctrl-C; `shardyard status` shows the cluster",
            pid=holder,
        ) from None


def _refuse_shared(path: Path) -> None:
    try:
        mode = stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if mode & 0o077:
        raise ControlError(
            f"{path} can be read by others (mode {mode:o})",
            hint=f"rm {path}    then start again: new secrets are made",
        )


def _write(path: Path, content: bytes) -> None:
    """A new file of mode 600, synced, renamed over the old one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
