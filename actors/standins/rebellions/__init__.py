"""Stand-ins for Rebellions' software: the package `rebel`, the tool `rbln-smi` and the management daemon.

Decides how a process comes to meet them. All three count their devices from one environment variable; none of them can
run a model. It must not know who is fooled.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

from ...names import STAND_IN_ENV
from ...readers.rbln_daemon import PORT_ENV
from ...stand_in import StandIn
from .. import namespace
from .cards import CARDS_ENV, declared
from .daemon import Daemon, start_daemon

__all__ = ["Daemon", "environment", "missing", "stand_in", "start_daemon"]

TOOL_PLACE = "/usr/bin/rbln-smi"

_HERE = Path(__file__).parent


def environment(
    folder: Path, class_name: str, count: int, *, port: int | None = None
) -> dict[str, str]:
    """Variables under which a process meets so many devices of a class of the catalog.

    Args:
        folder: gets `bin/rbln-smi`; `bin` goes in front of the tools of a `RealHost`.
        port: of a stand-in daemon, without which our own probe finds nothing.

    Raises:
        ValueError: Rebellions makes no such class.
    """
    described = declared(class_name, count)
    tool = folder / "bin" / "rbln-smi"
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text(
        f"#!/bin/sh\nPYTHONPATH='{_HERE.parents[2]}' exec '{sys.executable}' -m {__name__}.smi\n",
        encoding="utf-8",
    )
    tool.chmod(0o755)
    return {
        STAND_IN_ENV: "1",
        CARDS_ENV: described,
        "PYTHONPATH": str(_HERE / "python"),
        **({PORT_ENV: str(port)} if port else {}),
    }


def stand_in(folder: Path, device_class: str, count: int) -> StandIn:
    """See `actors.stand_in`: the package, the tool, and a daemon that lives as long as the command."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    beside = (sys.executable, "-P", "-m", f"{__name__}.beside", device_class, str(count), str(port))
    made = environment(folder, device_class, count, port=port)
    return StandIn(environment=made, prefix=(*_tool(folder), *beside, "--"))


def _tool(folder: Path) -> tuple[str, ...]:
    """Shows the tool in its usual place, where this machine allows that."""
    if namespace.reason():
        return ()
    words = namespace.prefix(folder / "machine", [(str(folder / "bin" / "rbln-smi"), TOOL_PLACE)])
    tried = subprocess.run(  # noqa: S603 - our own file, and a fixed command
        [*words, "test", "-x", TOOL_PLACE],
        capture_output=True,
        timeout=namespace.CHECK_TIMEOUT_S,
        check=False,
    )
    return words if tried.returncode == 0 else ()


def missing() -> str:
    """See `actors.stand_in`."""
    installed = importlib.util.find_spec("grpc") is not None
    return "" if installed else "the daemon's stand-in needs the package grpcio"
