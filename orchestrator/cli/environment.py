"""Commands about engines' environments: env create, list, check, remove."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from .. import exit_codes
from .program import output_option, print_json, quiet_logs, show

if TYPE_CHECKING:
    from actors.recipe import Flavour, Recipe


@click.group()
def env() -> None:
    """Environments of engines that cannot share ours: vLLM, vendors' servers, PyTorch.

    Each is a virtual environment on this machine, in SHARDYARD_ENVS (~/.local/share/shardyard/envs).
    """
    quiet_logs()


@env.command()
@click.argument("name")
@click.option("--flavour", metavar="WORD", help="Which way to build it, as in `env list`.")
@click.option(
    "--python", metavar="PATH", help="The Python to build it with; this one's without it."
)
@click.option(
    "--index-url",
    "indexes",
    metavar="URL",
    multiple=True,
    help="A further package index, such as a vendor's; PIP_EXTRA_INDEX_URL keeps a password off the command line.",
)
@click.option("--force", is_flag=True, help="Build it anew, also when it is there or in use.")
@click.option(
    "--timeout",
    "minutes",
    type=click.FloatRange(min=0, max=1440, min_open=True),
    default=60.0,
    show_default=True,
    metavar="MINUTES",
)
@output_option("text", "json")
def create(name: str, *, minutes: float, output: str, **flags: Any) -> None:
    """Build the environment NAME with pip, as it is configured for you.

    What was built counts once its recipe's trial has passed; after a failure or Ctrl-C nothing of it is left.
    """
    import threading

    from ..endings import signals
    from ..environments import Order
    from ..environments import create as build

    order = Order(deadline_s=minutes * 60, **_chosen(name, **flags))
    if order.flavour.stand_in:
        click.echo(f"{name}: a STAND-IN, without {order.flavour.stand_in}", err=True)
    with signals(threading.Event()):
        build(order, lambda line: click.echo(line, err=True))
    row = _row(order.recipe)
    if output == "json":
        print_json(row)
    else:
        click.echo(f"{name}: ready in {row['path']}, {row['size_gib']:.1f} GiB")


@env.command(name="list")
@output_option("table", "json")
def list_(output: str) -> None:
    """List the environments that there are recipes for, and what became of each here."""
    from actors.recipe import recipes

    rows = [_row(recipe) for recipe in recipes().values()]
    if output == "json":
        print_json({"environments": rows})
        return
    from ..views import table

    head = ("NAME", "STATE", "FLAVOUR", "GIB", "FOR", "NEXT")
    show(table(head, [_cells(row) for row in rows]))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    known = row["size_gib"]
    size = f"up to {row['most_gib']:g}" if known is None else f"{known:.1f}"
    return row["name"], row["state"], row["flavour"], size, row["about"], row["hint"]


@env.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@output_option("table", "json")
def check(names: tuple[str, ...], *, output: str) -> int:
    """Try environments: versions that are known to be unsafe, then the imports that their recipes name.

    Without NAME: all that were built. Exit code 5 when one of them cannot be used.
    """
    from dataclasses import asdict

    from ..environments import check as try_one
    from ..environments import recipe_named

    wanted = [recipe_named(name).name for name in names] or _built()
    trials = [asdict(try_one(name)) for name in wanted]
    if output == "json":
        print_json({"trials": trials})
    else:
        _show_trials(trials)
    return exit_codes.DEGRADED if any(t["reason"] for t in trials) else exit_codes.OK


@env.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when processes use it.")
def remove(name: str, *, force: bool) -> None:
    """Delete the environment NAME."""
    from ..environments import remove as delete

    gone = delete(name, force=force)
    click.echo(f"{name}: removed" if gone else f"{name}: there was none")


def _chosen(
    name: str, *, flavour: str | None, python: str | None, indexes: tuple[str, ...], force: bool
) -> dict[str, Any]:
    import shutil

    from ..environments import recipe_named

    recipe = recipe_named(name)
    given = python or sys.executable
    return {
        "recipe": recipe,
        "flavour": _flavour(recipe, flavour),
        "python": shutil.which(given) or given,
        "indexes": indexes,
        "force": force,
    }


def _flavour(recipe: Recipe, name: str | None) -> Flavour:
    from actors.recipe import default_flavour

    from ..environments import families_here
    from ..errors import InstallError
    from ..yaml_positions import did_you_mean

    if name is None:
        return default_flavour(recipe, families_here())
    found = recipe.flavour(name)
    if found is None:
        raise InstallError(
            f"{recipe.name} has no flavour {name!r}",
            hint=did_you_mean(name, [f.name for f in recipe.flavours]),
        )
    return found


def _built() -> list[str]:
    from actors import environments
    from actors.recipe import recipes

    return [name for name in recipes() if environments.folder(name).exists()]


def _row(recipe: Recipe) -> dict[str, Any]:
    """One environment: `state` is `ready`, or the kind of its trouble."""
    from actors import environments

    place = environments.folder(recipe.name)
    trouble, built = environments.trouble(recipe.name), environments.built(place)
    flavour = built.flavour if built else "/".join(f.name for f in recipe.flavours)
    hint = trouble.hint if trouble else ""
    if not trouble and environments.stale(recipe.name):
        hint = f"its recipe has changed: shardyard env create {recipe.name} --force"
    return {
        "name": recipe.name,
        "state": trouble.kind if trouble else "ready",
        "reason": trouble.reason if trouble else "",
        "hint": hint,
        "flavour": "yours" if environments.own(recipe.name) else flavour,
        "stand_in": environments.stand_in(recipe.name),
        "python": built.python if built else None,
        "size_gib": built.size_bytes / (1 << 30) if built else None,
        "most_gib": max(f.disk_gib for f in recipe.flavours),
        "path": str(place),
        "about": recipe.about,
    }


def _show_trials(trials: list[dict[str, Any]]) -> None:
    from actors import environments

    from ..views import table

    if not trials:
        click.echo("no environment was built on this machine; shardyard env list")
        return
    rows = [
        (
            "fail" if t["reason"] else "ok",
            t["name"],
            t["reason"] or _passed(t, environments.stand_in(t["name"])),
            t["hint"],
        )
        for t in trials
    ]
    show(table(("", "NAME", "FOUND", "NEXT"), rows))


def _passed(trial: dict[str, Any], lacking: str) -> str:
    said = f"imported in {trial['seconds']:.1f} s"
    return f"{said}; a STAND-IN, without {lacking}" if lacking else said
