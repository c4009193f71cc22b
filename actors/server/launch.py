"""How a vendor's server is started: its command, its environment, its private folder, and the door to it.

Decides what of our environment a server gets to see and where its socket lies. It must not know how a started server is watched.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from ..engine import EngineConfig
from ..errors import LoadFailed
from ..orphans import MARK, Mark, folder_places, mark
from .spec import Server, When

_LONGEST_FOLDER = 107 - len("/t/") - 37
"""A socket's path has 107 bytes, and some servers put sockets with names of 36 into their temporary folder."""
_KEPT_OUT = re.compile(r"(PYTHON|SHARDYARD_|RAY_|CONDA_|VIRTUAL_ENV|OMP_|__PYVENV)")
"""What would lead another interpreter astray, and what belongs to our cluster alone, its secrets included."""
_CALM = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A server that is about to be started.

    Attributes:
        argv, environment: of its process.
        folder: private and removed at its end: `w` to run in, `t` for temporary files, `s` the socket.
        served: the name under which it serves.
        socket: path of its unix socket; empty = it listens on `port`.
        key: what it may ask its clients for.
        mark: on every process of it.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    served: str
    socket: str
    port: int
    key: str
    mark: Mark

    @property
    def base_url(self) -> str:
        """Its address without the version."""
        return "http://engine" if self.socket else f"http://127.0.0.1:{self.port}"

    def connector(self) -> aiohttp.BaseConnector:
        """A way to it. Connections are not kept: a server that closes an idle one would fail the next request."""
        if self.socket:
            return aiohttp.UnixConnector(self.socket, limit=0, force_close=True)
        return aiohttp.TCPConnector(limit=0, force_close=True)

    def discard(self) -> None:
        """For a server that could not even be watched over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def order(self, config: EngineConfig, grace_s: float) -> dict[str, Any]:
        """What the supervisor is told."""
        return order_of(
            self.argv, self.environment, self.folder, config, grace_s=grace_s, secrets=(self.key,)
        )


def order_of(
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    folder: Path,
    config: EngineConfig,
    *,
    grace_s: float,
    secrets: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What the supervisor of a process is told; see `actors.server.main.Supervisor`."""
    return {
        "argv": argv,
        "environment": dict(environment),
        "folder": str(folder),
        "directory": str(folder / "w"),
        "owner": os.getpid(),
        "grace_s": grace_s,
        "log_path": config.log_path,
        "cores": config.cores,
        "secrets": list(secrets),
    }


def launch(
    server: Server, config: EngineConfig, python: Path, variables: Mapping[str, str]
) -> Launch:
    """Makes the private folder and fills the templates.

    Args:
        variables: what the environment's recipe asks for.

    Raises:
        LoadFailed: the configuration is none that the server can run, or there is no place for the folder.
    """
    more = server.values(config)
    marked, folder = private_folder(config.owner, secrets.token_hex(4))
    try:
        return _launch(server, config, python, {**variables}, marked, folder, more)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _launch(
    server: Server,
    config: EngineConfig,
    python: Path,
    variables: Mapping[str, str],
    marked: Mark,
    folder: Path,
    more: Mapping[str, str],
) -> Launch:
    over_port = any("{port}" in word for part in server.argv for word in _words(part))
    port = _free_port() if over_port else 0
    door = "" if over_port else str(folder / "s")
    served = (
        f"{re.sub(r'[^A-Za-z0-9]+', '-', config.model).strip('-')[:64] or 'model'}-{marked.key}"
    )
    key = secrets.token_urlsafe(24)
    values = {
        "python": str(python),
        "bin": str(python.parent),
        "model": config.model_path,
        "served": served,
        "socket": door,
        "port": str(port or ""),
        "key": key,
        "window": str(config.window or ""),
        "sequences": str(config.max_sequences or ""),
        "tp": str(config.tp),
        **more,
    }
    try:
        argv = tuple(word for part in server.argv for word in _filled(part, values))
        own = {name: text.format_map(values) for name, text in server.variables.items()}
    except (KeyError, ValueError, IndexError) as error:
        raise LoadFailed(f"the command of engine {server.name} has no value for {error}") from None
    environment = environment_of(config, python, folder, marked) | dict(variables)
    environment |= {**dict(config.environment), **own}
    return Launch(
        argv=argv,
        environment={name: value for name, value in environment.items() if own.get(name) != ""},
        folder=folder,
        served=served,
        socket=door,
        port=int(values["port"] or 0),
        key=key,
        mark=marked,
    )


def _words(part: str | When) -> tuple[str, ...]:
    return (part,) if isinstance(part, str) else part.words


def _filled(part: str | When, values: Mapping[str, str]) -> tuple[str, ...]:
    return (part.format_map(values),) if isinstance(part, str) else part.filled(values)


def environment_of(
    config: EngineConfig, python: Path, folder: Path, marked: Mark
) -> dict[str, str]:
    """What a process of a server's gets of our environment, and what all of them are told alike."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in config.unset and not _KEPT_OUT.match(name)
    }
    threads = {"OMP_NUM_THREADS": str(config.threads), **_CALM} if config.threads else {}
    return {
        **kept,
        **threads,
        "PATH": os.pathsep.join([str(python.parent), kept.get("PATH", os.defpath)]),
        "VIRTUAL_ENV": str(python.parent.parent),
        "TMPDIR": str(folder / "t"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        MARK: marked.text,
    }


def private_folder(owner: str, key: str) -> tuple[Mark, Path]:
    """The mark of a new server, and its folder.

    Raises:
        LoadFailed: there is no place for it.
    """
    marked = mark(owner, key)
    return marked, _folder(marked)


def _folder(marked: Mark) -> Path:
    for place in folder_places():
        folder = place / marked.folder
        if len(os.fsencode(folder)) <= _LONGEST_FOLDER:
            with suppress(OSError):
                folder.mkdir(mode=0o700)
                (folder / "w").mkdir()
                (folder / "t").mkdir()
                return folder
    raise LoadFailed(
        f"there is no folder for sockets in any of {', '.join(map(str, folder_places()))}",
        hint="set TMPDIR to a short path that can be written to",
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
