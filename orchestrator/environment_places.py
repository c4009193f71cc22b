"""The folders of engines' environments: locked while one is built, with room, and deleted only when they are ours and idle.

Decides what may be deleted. It must not know how environments are built.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from actors import environments
from actors.recipe import Flavour

from . import proc_fs
from .errors import InstallError

_ROOM = 1.5
"""Free space that is asked for, over the size at the end: what is downloaded lies beside what is unpacked."""
_END_DEADLINE_S = 5.0
_POLL_S = 0.05


@contextmanager
def locked(name: str, place: Path) -> Iterator[None]:
    """One builder at a time; the kernel lets go when it dies.

    Raises:
        InstallError: another one is at it, or the folder cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = (place.parent / f"{name}.lock").open("w")
    except OSError as error:
        raise InstallError(
            f"{place.parent} cannot be written: {error.strerror}",
            hint=f"set {environments.ENVS_ENV} to a folder of your own",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallError(
                f"another process builds or removes the environment {name}",
                hint=f"wait for it, then shardyard env check {name}",
            ) from None
        yield


def delete(name: str, place: Path, *, force: bool) -> None:
    """Deletes an environment, whole or not. Call it with the place locked.

    Raises:
        InstallError: it is in use, or the folder is none of ours.
    """
    ours = place.is_dir() and ((place / "pyvenv.cfg").exists() or not any(place.iterdir()))
    if place.is_symlink() or not ours:
        raise InstallError(
            f"{place} is no virtual environment, so it is not deleted",
            hint=f"move it away, or set {environments.ENVS_ENV} to another folder",
        )
    users = _users(place)
    if users and environments.built(place) is None:
        _end(users)
    elif users and not force:
        raise InstallError(
            f"the environment {name} is in use by {', '.join(map(str, users))}",
            hint=f"end these processes, or shardyard env remove {name} --force",
        )
    (place / environments.MARKER).unlink(missing_ok=True)  # first: half of it must not count
    try:
        shutil.rmtree(place)
    except OSError as error:
        hint = f"ls -ld {place}"
        raise InstallError(f"{place} cannot be deleted: {error.strerror}", hint=hint) from error


def _end(users: list[int]) -> None:
    """Ends what a killed build left: nobody else has business in an unfinished environment."""
    until = time.monotonic() + _END_DEADLINE_S
    for pid in users:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    while any(_runs(pid) for pid in users) and time.monotonic() < until:
        time.sleep(_POLL_S)


def _runs(pid: int) -> bool:
    row = proc_fs.process(pid)
    return row is not None and row.running


def _users(place: Path) -> list[int]:
    """Processes that were started from an environment."""
    begins = f"{place}/bin/"
    return sorted(pid for pid in proc_fs.processes() if proc_fs.command(pid).startswith(begins))


def need_room(flavour: Flavour, place: Path) -> None:
    """Refuses what the disk cannot hold.

    Raises:
        InstallError: there is not enough space.
    """
    free = shutil.disk_usage(place.parent).free / (1 << 30)
    wanted = flavour.disk_gib * _ROOM
    if free < wanted:
        raise InstallError(
            f"{place.parent} has {free:.1f} GiB free, and building takes about {wanted:.1f} GiB",
            hint=f"free some space, or set {environments.ENVS_ENV} to a folder on a larger disk",
        )
