"""Where engines' environments lie on this machine, and whether each one can be used.

Decides that by looking at names in folders and one small file: nothing is imported or run, so that a probe may ask at any
time. How they are built is `orchestrator.environments`; what is in them, `actors/recipes`. Which engine lives in which is
the engine's to say.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from . import advisories
from .recipe import digest, recipes
from .rooted_files import list_folder

ENVS_ENV = "SHARDYARD_ENVS"
"""The folder of all environments."""
OWN_ENV = "SHARDYARD_ENV_"
"""With the name of one in capitals: the folder of a virtual environment of the operator's that is taken for it."""
MARKER = "shardyard-environment.json"
"""Written into an environment when it is whole; a folder without it is unfinished."""

Kind = Literal["unknown", "missing", "unfinished", "broken", "unsafe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why an environment cannot be used, and the next command."""

    name: str
    kind: Kind
    reason: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What the marker says.

    Attributes:
        digest: of the steps by which it was built; see `stale`.
        python: version of its interpreter.
        when: UTC, ISO 8601.
        size_bytes: of its files on that day.
    """

    flavour: str
    digest: str
    python: str
    when: str
    size_bytes: int


def home() -> Path:
    """The folder of all environments, absolute; it need not exist."""
    named = os.environ.get(ENVS_ENV)
    if named:
        return Path(named).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "shardyard" / "envs"


def own_variable(name: str) -> str:
    """The variable that names an environment of the operator's.

    >>> own_variable("onnx-builder")
    'SHARDYARD_ENV_ONNX_BUILDER'
    """
    return OWN_ENV + re.sub(r"[^A-Z0-9]", "_", name.upper())


def own(name: str) -> Path | None:
    """The folder that the operator has named for it."""
    named = os.environ.get(own_variable(name))
    return Path(named).expanduser().absolute() if named else None


def folder(name: str) -> Path:
    """Where the environment lies or would lie."""
    return own(name) or home() / name


def interpreter(name: str) -> Path | None:
    """The Python of an environment that can be used; `trouble` says why when it is None."""
    return None if trouble(name) else folder(name) / "bin" / "python"


def variables(name: str) -> Mapping[str, str]:
    """What processes in the environment get in theirs; an engine's own variables come after them."""
    recipe = recipes().get(name)
    return recipe.variables if recipe else {}


def trouble(name: str) -> Trouble | None:
    """What speaks against using the environment; None = nothing that can be seen without starting it."""
    found = _incomplete(name)
    if found is not None:
        return found
    place = folder(name)
    flaw = next(advisories.unsafe(installed(place)), None)
    if flaw is None:
        return None
    hint = f"shardyard env create {name} --force"
    if own(name):
        hint = f"install a later version in {place}, or unset {own_variable(name)}"
    return Trouble(name=name, kind="unsafe", reason=f"in the environment {name}: {flaw}", hint=hint)


def built(place: Path) -> Built | None:
    """What the marker of a folder says; None when there is none that can be read."""
    try:
        said: Any = json.loads((place / MARKER).read_text("utf-8"))
        return Built(**said)
    except (OSError, ValueError, TypeError):
        return None


def mark(place: Path, what: Built) -> None:
    """Says that the environment is whole; the last step of building one."""
    draft = place / f"{MARKER}.new"
    draft.write_text(json.dumps(asdict(what), indent=2) + "\n", "utf-8")
    draft.replace(place / MARKER)


def stale(name: str) -> bool:
    """Whether it was built by other steps than its recipe has."""
    recipe, found = recipes().get(name), built(folder(name))
    if recipe is None or found is None or own(name):
        return False
    flavour = recipe.flavour(found.flavour)
    return flavour is None or digest(recipe, flavour) != found.digest


def stand_in(name: str) -> str:
    """What the environment lacks of the vendor's own software; empty when it is the real thing or not built."""
    recipe, found = recipes().get(name), built(folder(name))
    flavour = recipe.flavour(found.flavour) if recipe and found and not own(name) else None
    return flavour.stand_in if flavour else ""


def installed(place: Path) -> dict[str, str]:
    """Distributions of a virtual environment and their versions, by normalised name, from the names of folders."""
    folders = place.glob("lib/python3*/site-packages")
    names = (name for packages in folders for name in list_folder(packages))
    facts = (name.removesuffix(".dist-info") for name in names if name.endswith(".dist-info"))
    pairs = (name.partition("-") for name in facts)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in pairs}


def _incomplete(name: str) -> Trouble | None:
    place, mine = folder(name), own(name)
    python = os.access(place / "bin" / "python", os.X_OK)
    if mine:
        return None if python else _not_an_environment(name, place)
    if name not in recipes():
        return _unknown(name)
    if not os.path.exists(place):  # noqa: PTH110 - the method of Path raises where it may not look
        return Trouble(
            name=name,
            kind="missing",
            reason=f"the environment {name} is not built on this machine",
            hint=f"shardyard env create {name}",
        )
    if built(place) is None:
        return Trouble(
            name=name,
            kind="unfinished",
            reason=f"the environment {name} in {place} was not finished",
            hint=f"shardyard env create {name}",
        )
    return None if python else _gone(name, place)


def _unknown(name: str) -> Trouble:
    return Trouble(
        name=name,
        kind="unknown",
        reason=f"there is no recipe for an environment {name}",
        hint=f"set {own_variable(name)} to the folder of one, or choose of: {', '.join(recipes())}",
    )


def _not_an_environment(name: str, place: Path) -> Trouble:
    variable = own_variable(name)
    return Trouble(
        name=name,
        kind="broken",
        reason=f"{variable}={place} has no bin/python that can be run",
        hint=f"set {variable} to the folder of a virtual environment, or unset it",
    )


def _gone(name: str, place: Path) -> Trouble:
    return Trouble(
        name=name,
        kind="broken",
        reason=f"{place}/bin/python leads nowhere: the Python that built the environment {name} is gone",
        hint=f"shardyard env create {name} --force",
    )
