"""Builds and removes engines' environments: a virtual environment, the steps of its recipe, a trial, and the marker last.

Decides order, deadlines and what becomes of a build that fails: nothing of it stays but its log. A folder without marker
counts for nobody (actors.environments). pip finds registries as this user has configured it; none is named here.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from actors import environments
from actors.environments import Built
from actors.host import RealHost
from actors.pci import pci_functions
from actors.recipe import Flavour, Recipe, Step, digest, recipes
from actors.vendors import Family, families
from actors.version_range import within

from .builds import Ended, watched
from .environment_places import delete, locked, need_room
from .errors import InstallError, TimedOut
from .yaml_positions import did_you_mean

PYTHON_DEADLINE_S = 30.0
VENV_DEADLINE_S = 300.0
_SHOWN_LINES = 8
_NEWS = re.compile(
    r"\s*(?:(?:Downloading|Processing) .*\b[MG]B\)|Building |Installing collected |Uninstalling )"
)
_TALK = ("WARNING", "[notice]", "Looking in ")
"""What pip says beside the reason."""
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to build.

    Attributes:
        python: the interpreter to build with.
        indexes: further package indexes, which may carry credentials.
        force: replace what is there.
        deadline_s: for all steps together.
    """

    recipe: Recipe
    flavour: Flavour
    python: str = sys.executable
    indexes: tuple[str, ...] = ()
    force: bool = False
    deadline_s: float = 3600.0


def recipe_named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InstallError: there is none.
    """
    found = recipes().get(name)
    if found is None:
        raise InstallError(
            f"there is no environment {name!r}", hint=did_you_mean(name, recipes()), name=name
        )
    return found


def families_here() -> tuple[str, ...]:
    """Families of accelerators that this machine has: on the bus, or by a device file."""
    real = RealHost()
    functions = pci_functions(real)

    def here(family: Family) -> bool:
        on_the_bus = any(family.claims(f.vendor, f.kind) for f in functions)
        return on_the_bus or any(real.access(node) != "absent" for node in family.nodes)

    return tuple(name for name, family in families().items() if here(family))


def create(order: Order, say: Say) -> Built:
    """Builds the environment; nothing of it is left when that fails or is interrupted.

    Raises:
        InstallError: it cannot be built here, or is there already.
        TimedOut: the deadline passed.
    """
    name, place = order.recipe.name, environments.folder(order.recipe.name)
    if environments.own(name):
        variable = environments.own_variable(name)
        raise InstallError(f"{variable} names {place} for it", hint=f"unset {variable}, then again")
    version = _python_version(order)
    with locked(name, place):
        _clear(order, place, say)
        need_room(order.flavour, place)
        try:
            return _build(order, place, version, say)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise


def remove(name: str, *, force: bool) -> bool:
    """Deletes an environment of ours; False when there was none.

    Raises:
        InstallError: it is in use, or the folder is none of ours.
    """
    place = environments.home() / recipe_named(name).name
    if not place.exists():
        return False
    with locked(name, place):
        delete(name, place, force=force)
        place.with_suffix(".log").unlink(missing_ok=True)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Whether an environment can do what its recipe says; `reason` is empty when it can."""

    name: str
    seconds: float
    reason: str = ""
    hint: str = ""


def check(name: str) -> Trial:
    """Looks at an environment, then runs the statement of its recipe in it."""
    recipe = recipe_named(name)
    trouble = environments.trouble(name)
    if trouble is not None:
        return Trial(name=name, seconds=0.0, reason=trouble.reason, hint=trouble.hint)
    place = environments.folder(name)
    found = environments.built(place)
    flavour = recipe.flavour(found.flavour) if found else None
    began = time.monotonic()
    reason = _try(recipe, flavour or recipe.flavours[0], place)
    mends = f"shardyard env create {name} --force"
    if environments.own(name):
        mends = f"mend it in {place}, or unset {environments.own_variable(name)}"
    seconds = time.monotonic() - began
    return Trial(name=name, seconds=seconds, reason=reason, hint=mends if reason else "")


def _build(order: Order, place: Path, version: str, say: Say) -> Built:
    recipe, flavour = order.recipe, order.flavour
    deadline = time.monotonic() + order.deadline_s
    log = place.with_suffix(".log")
    scratch = place / "tmp"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as kept:

        def hear(line: str) -> None:
            kept.write(f"{line}\n")
            if _NEWS.match(line):
                say(f"  {line.strip()[:100]}")

        say(f"{recipe.name}: environment in {place}, Python {version}")
        argv = [order.python, "-m", "venv", str(place)]
        until = min(deadline, time.monotonic() + VENV_DEADLINE_S)
        ended = watched(argv, _environment(order, None), until, hear)
        _expect(ended, order, "the virtual environment", log)
        scratch.mkdir()
        for number, step in enumerate(flavour.steps, 1):
            told = f"step {number} of {len(flavour.steps)}"
            say(f"{recipe.name}: {told}: {step.act} {', '.join(step.words)}")
            ended = watched(_pip(place, step), _environment(order, scratch), deadline, hear)
            _expect(ended, order, f"{told} ({step.about})" if step.about else told, log)
    shutil.rmtree(scratch)
    say(f"{recipe.name}: trying it")
    return _finish(order, place, version)


def _finish(order: Order, place: Path, version: str) -> Built:
    recipe, flavour = order.recipe, order.flavour
    reason = _try(recipe, flavour, place)
    if reason:
        hint = f"less {place.with_suffix('.log')}"
        raise InstallError(f"the environment {recipe.name} was built, but {reason}", hint=hint)
    built = Built(
        flavour=flavour.name,
        digest=digest(recipe, flavour),
        python=version,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        size_bytes=_size(place),
    )
    environments.mark(place, built)
    return built


def _pip(place: Path, step: Step) -> list[str]:
    plain = ["--no-input", "--disable-pip-version-check"]
    argv = [str(place / "bin" / "python"), "-m", "pip", step.act, *plain]
    if step.act == "uninstall":
        return [*argv, "--yes", *step.words]
    alone = [] if step.dependencies else ["--no-deps"]
    return [*argv, "--progress-bar", "off", *alone, *step.words]


def _environment(order: Order, scratch: Path | None) -> dict[str, str]:
    """That of this user, so that pip is configured as ever; with the indexes, because anybody can read command lines."""
    env = {key: value for key, value in os.environ.items() if key not in _DROPPED}
    env |= {"LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
    if order.indexes:
        more = env.get("PIP_EXTRA_INDEX_URL", "")
        env["PIP_EXTRA_INDEX_URL"] = " ".join([*more.split(), *order.indexes])
    if (
        scratch is not None
    ):  # the disk that was measured, and the folder that is deleted with the rest
        env["TMPDIR"] = str(scratch)
    return env


def _expect(ended: Ended, order: Order, what: str, log: Path) -> None:
    name, flavour = order.recipe.name, order.flavour
    if ended.overdue:
        raise TimedOut(
            f"{name}: {what} was not done within {order.deadline_s:g} s",
            hint=f"shardyard env create {name} --timeout MINUTES",
        )
    if ended.status == 0:
        return
    telling = [line for line in ended.last if not line.startswith(_TALK)]
    said = "\n  ".join(telling[-_SHOWN_LINES:])
    hint = f"less {log}"
    if flavour.private:
        hint = f"shardyard env create {name} --index-url URL: {flavour.private}"
    raise InstallError(f"{name}: {what} failed with status {ended.status}:\n  {said}", hint=hint)


def _try(recipe: Recipe, flavour: Flavour, place: Path) -> str:
    """Runs the recipe's statement; why it failed, or nothing."""
    argv = [str(place / "bin" / "python"), "-P", "-c", flavour.check or recipe.check]
    plain = {key: value for key, value in os.environ.items() if key not in _DROPPED}
    last: deque[str] = deque(maxlen=1)
    ended = watched(
        argv, {**plain, **recipe.variables}, time.monotonic() + recipe.check_s, last.append
    )
    if ended.overdue:
        return f"`{argv[-1]}` took more than {recipe.check_s:g} s"
    if ended.status != 0:
        return f"`{argv[-1]}` ends with status {ended.status}: {' '.join(last)[:300]}"
    return ""


def _python_version(order: Order) -> str:
    wanted = order.flavour.python or order.recipe.python
    code = "import venv, ensurepip, sys; print('%d.%d.%d' % sys.version_info[:3])"
    heard: list[str] = []
    until = time.monotonic() + PYTHON_DEADLINE_S
    ended = watched(
        [order.python, "-P", "-c", code], _environment(order, None), until, heard.append
    )
    version = heard[-1] if heard else ""
    if ended.status != 0 or ended.overdue:
        raise InstallError(
            f"{order.python} cannot build virtual environments: {version or 'it does not answer'}",
            hint="install its venv module (Debian: apt install python3-venv), or name another: --python PATH",
        )
    if not within(version, wanted):
        raise InstallError(
            f"{order.recipe.name} needs Python {wanted}, and {order.python} is {version}",
            hint=f"shardyard env create {order.recipe.name} --python PATH",
        )
    return version


def _clear(order: Order, place: Path, say: Say) -> None:
    """Makes room for a build: deletes what is unfinished, and what is whole only when told to."""
    if not place.exists():
        return
    name = order.recipe.name
    if environments.built(place) is not None and not order.force:
        raise InstallError(
            f"the environment {name} is in {place} already",
            hint=f"shardyard env create {name} --force builds it anew",
        )
    say(f"{name}: deleting what is in {place}")
    delete(name, place, force=order.force)


def _size(place: Path) -> int:
    return sum(path.lstat().st_size for path in place.rglob("*") if not path.is_symlink())
