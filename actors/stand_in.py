"""A node whose vendor's own software believes in hardware that is not there: what its processes are started with.

Each family's way is one module in `actors/standins/`, named after it, with `stand_in(folder, device_class, count)` and
`missing()`. Decides nothing about how; it must not know any family.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .names import STAND_IN_ENV


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """How to start a process that meets the pretended devices.

    Attributes:
        environment: variables to add; paths like LD_LIBRARY_PATH go in front of what is there (`PATHS`).
        prefix: words in front of its command line.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()


PATHS = ("LD_LIBRARY_PATH", "PYTHONPATH", "PATH")


def stand_in(family: str, folder: Path, device_class: str, count: int) -> StandIn:
    """Prepares the stand-in of a family in a folder of its own.

    Args:
        device_class: name of the catalog.

    Raises:
        ShardyardError: it cannot be built here.
        ValueError: it has no such class, or not so many devices of it.
    """
    found: StandIn = _module(family).stand_in(folder, device_class, count)
    return replace(found, environment={**found.environment, STAND_IN_ENV: "1"})


def missing(family: str) -> str:
    """Why a family has no stand-in here, as a sentence; empty when it has one."""
    if importlib.util.find_spec(f"actors.standins.{family}") is None:
        return f"there is no stand-in for the software of {family}"
    return str(_module(family).missing())


def with_paths(base: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """An environment with a stand-in's variables laid over it.

    >>> with_paths({"PATH": "/usr/bin"}, {"PATH": "/x", "A": "1"})
    {'PATH': '/x:/usr/bin', 'A': '1'}
    """
    joined = {
        name: f"{value}:{base[name]}" if name in PATHS and base.get(name) else value
        for name, value in added.items()
    }
    return {**base, **joined}


def _module(family: str) -> Any:
    return importlib.import_module(f"actors.standins.{family}")
