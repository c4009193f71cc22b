"""Commands that look: devices, ps, status, logs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from .. import exit_codes
from .program import client_of, console, output_option, print_json, show

if TYPE_CHECKING:
    from placement.inventory import Inventory

    from ..client import Client

_WATCH_S = 1.0


@click.command()
@click.option(
    "--inventory", metavar="FILE", help="Show the devices of this inventory file instead."
)
@output_option("table", "json", "yaml")
@click.pass_context
def devices(context: click.Context, *, inventory: str | None, output: str) -> None:
    """List the devices of all nodes.

    -o yaml writes an inventory that `plan --inventory` reads.
    """
    problems: list[dict[str, str]] = []
    if inventory is not None:
        from ..inventory_file import load_inventory

        found = load_inventory(inventory)
    else:
        with client_of(context) as client:
            found, problems = client.inventory()
    _show_devices(found, problems, output)


def _show_devices(found: Inventory, problems: list[dict[str, str]], output: str) -> None:
    if output == "yaml":
        from ..inventory_dump import dump_inventory

        click.echo(dump_inventory(found), nl=False)
    elif output == "json":
        import json

        from placement.codec import encode

        print_json({"inventory": json.loads(encode(found)), "problems": problems})
    else:
        from .. import views

        show(views.devices_table(found), *views.problems_view(problems))


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Show again each second until Ctrl-C.")
@output_option("table", "json")
@click.pass_context
def ps(context: click.Context, *, watch: bool, output: str) -> None:
    """List the replicas.

    Where they run, how far they have loaded, and what is wrong with them.
    """
    with client_of(context) as client:
        if watch and output == "table":
            _watch(client)
        elif output == "json":
            print_json({"replicas": client.replicas()})
        else:
            from .. import views

            show(views.replicas_table(client.replicas()))


def _watch(client: Client) -> None:
    from rich.live import Live

    from .. import views

    with Live(console=console(), auto_refresh=False) as live:
        while True:
            live.update(views.replicas_table(client.replicas()), refresh=True)
            time.sleep(_WATCH_S)


@click.command()
@output_option("table", "json")
@click.pass_context
def status(context: click.Context, *, output: str) -> int:
    """Show the cluster at a glance.

    Exit code 5 when it is degraded, 3 when the spec does not fit any more.
    """
    from .. import views

    with client_of(context) as client:
        found = client.status()
    word = views.status_word(found)
    if output == "json":
        print_json({"state": word, **found})
    else:
        show(*views.status_view(found))
    codes = {"degraded": exit_codes.DEGRADED, "infeasible": exit_codes.INFEASIBLE}
    return codes.get(word, exit_codes.OK)


@click.command()
@click.argument("name")
@click.option("-n", "--lines", type=click.IntRange(1, 10_000), default=200, show_default=True)
@click.pass_context
def logs(context: click.Context, name: str, *, lines: int) -> None:
    """Print the end of the log of NAME.

    NAME is a replica as in `ps`, a node, `gateway` or `controller`.
    """
    with client_of(context) as client:
        click.echo(client.logs(name, lines).rstrip("\n"))
