"""Checks of engines' environments, and of software of others that is unsafe or unmaintained.

Decides which of them is worth a line on this machine. It looks at names and small files, and starts nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from actors import advisories, environments
from actors.plugins import ENGINES_GROUP, ENGINES_PACKAGE, load_plugins
from actors.recipe import Recipe, recipes
from actors.redaction import redacted

from .check import Check
from .settings import PREFIX

REMOTE = "serve it as a remote endpoint (engine remote, SHARDYARD_REMOTE), or move to vllm"


def check_environments(families: Collection[str]) -> Iterator[Check]:
    """A line for each environment that was built, or that something on this machine could use.

    Args:
        families: families of accelerators that this machine has.
    """
    for recipe in recipes().values():
        trouble = environments.trouble(recipe.name)
        if trouble is None:
            yield _usable(recipe)
        elif trouble.kind != "missing":
            status = "fail" if trouble.kind in ("unsafe", "broken") else "warn"
            yield Check(
                check=_title(recipe), status=status, detail=trouble.reason, hint=trouble.hint
            )
        elif not recipe.family or recipe.family in families:
            detail = f"is not built here ({recipe.about})"
            yield Check(check=_title(recipe), status="warn", detail=detail, hint=trouble.hint)


def engines_said() -> frozenset[str]:
    """Names of the prober's rows of engines that the rows of their environments speak for."""
    engines = load_plugins(ENGINES_PACKAGE, ENGINES_GROUP).found
    lives = {name: getattr(engine, "environment", "") for name, engine in engines.items()}
    return frozenset(f"engine {name}" for name, place in lives.items() if place in recipes())


def check_software(installed: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[Check]:
    """Our own environment's unsafe versions, and what nobody maintains wherever it shows.

    Args:
        installed: distributions of our own environment.
        environ: variables of this process.
    """
    for flaw in advisories.unsafe(installed):
        package, _, _ = flaw.partition(" ")
        hint = f"pip install --upgrade {package}"
        yield Check(check="unsafe", status="fail", detail=flaw, hint=hint)
    texts = {key: f"{key} {redacted(value)}" for key, value in environ.items() if _ours(key)}
    places = {"": installed} | {name: _inside(name) for name in recipes()}
    for place, packages in places.items():
        where = f" in the environment {place}" if place else ""
        for row, what in advisories.ended(packages, {} if place else texts):
            yield Check(
                check=row.name, status="warn", detail=f"{what}{where}: {row.says}", hint=REMOTE
            )


def _ours(key: str) -> bool:
    return key.startswith(PREFIX)


def _inside(name: str) -> dict[str, str]:
    return environments.installed(environments.folder(name))


def _title(recipe: Recipe) -> str:
    return f"environment {recipe.name}"


def _usable(recipe: Recipe) -> Check:
    place = environments.folder(recipe.name)
    lacking = environments.stand_in(recipe.name)
    detail = f"in {place}" + (f"; a STAND-IN, without {lacking}" if lacking else "")
    if environments.stale(recipe.name):
        return Check(
            check=_title(recipe),
            status="warn",
            detail=f"{detail}; built by an earlier recipe",
            hint=f"shardyard env create {recipe.name} --force",
        )
    return Check(check=_title(recipe), status="ok", detail=detail)
