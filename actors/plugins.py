"""Finds engines and probes: ours by listing a folder, other people's by entry point.

Decides which of them can be used; one that is broken is reported and never hides another. It must not know what any of
them does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import structlog

from placement.catalog import engines
from placement.engine_facts import EngineFacts

from .engine import Engine
from .environments import trouble
from .errors import EngineError
from .server.engine import ServerEngine
from .server.spec import Server
from .worker.engine import WorkerEngine

log = structlog.get_logger()

PLUGIN_BROKEN = "plugin.broken"

ENGINES_PACKAGE, ENGINES_GROUP = "actors.engines", "shardyard.engines"
PROBES_PACKAGE, PROBES_GROUP = "actors.probes", "shardyard.probes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A plugin that cannot be used, why, and what mends it; `optional` when it is whole and only lacks what it needs here."""

    name: str
    reason: str
    hint: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """What was found.

    Attributes:
        found: plugin classes by their `name`, built-ins first, otherwise in order of module and entry point.
    """

    found: Mapping[str, type[Any]]
    broken: tuple[Broken, ...] = ()


@lru_cache
def load_plugins(package: str, group: str) -> Plugins:
    """The plugin classes of a package's modules and of an entry-point group; looked for once per process.

    A plugin is a class with a text `name`. Of two with one name the first counts and the later is reported.
    """
    found: dict[str, type[Any]] = {}
    broken: list[Broken] = []
    for origin, outcome in (*_built_in(package), *_third_party(group)):
        if isinstance(outcome, Broken):
            broken.append(outcome)
        elif outcome.name in found:
            first = found[outcome.name]
            reason = f"its name {outcome.name!r} is taken by {first.__module__}.{first.__name__}"
            broken.append(
                Broken(name=origin, reason=reason, hint="rename or uninstall one of them")
            )
        else:
            found[outcome.name] = outcome
    for problem in broken:
        log.warning(PLUGIN_BROKEN, plugin=problem.name, reason=problem.reason)
    return Plugins(found=found, broken=tuple(broken))


def _built_in(package: str) -> Iterator[tuple[str, type[Any] | Broken]]:
    folder = importlib.import_module(package).__path__
    for module in sorted(m.name for m in pkgutil.iter_modules(folder)):
        origin = f"{package}.{module}"
        try:
            classes = _classes(importlib.import_module(origin))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever an import does
            yield origin, _broken(origin, error)
            continue
        if not classes:
            yield origin, Broken(name=origin, reason="it has no class with a text `name`")
        for found in classes:
            yield origin, found


def _third_party(group: str) -> Iterator[tuple[str, type[Any] | Broken]]:
    points = importlib.metadata.entry_points(group=group)
    for point in sorted(points, key=lambda p: (p.name, p.value)):
        origin = f"{point.name} ({point.value})"
        try:
            found = point.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever an import does
            yield origin, _broken(origin, error)
            continue
        if inspect.isclass(found) and _is_plugin(found):
            yield origin, found
        else:
            yield origin, Broken(name=origin, reason="it is not a class with a text `name`")


def _broken(origin: str, error: BaseException) -> Broken:
    reason = f"its import failed: {type(error).__name__}: {error}"[:500]
    return Broken(name=origin, reason=reason, hint="reinstall or uninstall it")


def _classes(module: Any) -> list[type[Any]]:
    found = (c for _, c in inspect.getmembers(module, inspect.isclass))
    return [c for c in found if c.__module__ == module.__name__ and _is_plugin(c)]


def _is_plugin(candidate: type[Any]) -> bool:
    name = getattr(candidate, "name", None)
    return isinstance(name, str) and bool(name) and not candidate.__name__.startswith("_")


def available_engines() -> tuple[frozenset[str], tuple[Broken, ...]]:
    """The engines that can start here, and why the others cannot."""
    plugins = load_plugins(ENGINES_PACKAGE, ENGINES_GROUP)
    missing = [
        problem
        for name, engine in plugins.found.items()
        if (problem := _looked_at(name, engine)) is not None
    ]
    names = frozenset(plugins.found) - {m.name for m in missing}
    return names, (*plugins.broken, *missing)


def _looked_at(name: str, engine: type[Any]) -> Broken | None:
    """As `_missing`; an engine that cannot even be asked costs none but itself."""
    try:
        return _missing(name, engine)
    except Exception as error:  # noqa: BLE001 - a class of somebody else's
        reason = f"what it needs cannot be told: {type(error).__name__}: {error}"[:500]
        return Broken(name=name, reason=reason, hint="reinstall or uninstall it")


def _missing(name: str, engine: type[Any]) -> Broken | None:
    """What an engine lacks to start here: its environment, or a package in ours."""
    environment = getattr(engine, "environment", "")
    if environment:
        wrong = trouble(environment)
        if wrong is None:
            return None
        absent = wrong.kind in ("missing", "unknown")
        return Broken(name=name, reason=wrong.reason, hint=wrong.hint, optional=absent)
    for module in getattr(engine, "requires", ()):
        if not _is_there(module):
            reason = f"{module} is not installed"
            return Broken(name=name, reason=reason, hint=f"pip install {module}", optional=True)
    return None


def _is_there(module: str) -> bool:
    """A module below a package that is not there is not there either; Python asks for the package first."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def engine_facts(name: str) -> EngineFacts | None:
    """What the planner knows of an engine: from the catalog, or as its plugin says; None = nothing."""
    plugin = load_plugins(ENGINES_PACKAGE, ENGINES_GROUP).found.get(name)
    return engines().get(name) or getattr(plugin, "facts", None)


def server_of(name: str) -> Server | None:
    """The vendor's server that an engine is; None when it is something else, or is not known."""
    engine = load_plugins(ENGINES_PACKAGE, ENGINES_GROUP).found.get(name)
    return engine() if engine is not None and hasattr(engine, "argv") else None


def make_engine(name: str) -> Engine:
    """A new engine: in this process, a worker around it when it is a `Stepper`, a supervised process when it is a `Server`.

    Raises:
        EngineError: there is no such engine.
    """
    known = load_plugins(ENGINES_PACKAGE, ENGINES_GROUP).found
    if name not in known:
        raise EngineError(
            f"there is no engine {name!r} on this node",
            hint="known engines: " + ", ".join(sorted(known)),
        )
    engine = known[name]
    if hasattr(engine, "argv"):
        return ServerEngine(engine())
    if hasattr(engine, "step"):
        target = f"{engine.__module__}:{engine.__qualname__}"
        return WorkerEngine(name, target, environment=getattr(engine, "environment", ""))
    return engine()
