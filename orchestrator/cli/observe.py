"""Commands that look: devices, top, ps, status, logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .. import exit_codes
from .program import client_of, console, output_option, print_json, quiet_logs, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..client import Client

_WATCH_S = 1.0


@click.command()
@click.option(
    "--inventory", metavar="FILE", help="Show the devices of this inventory file instead."
)
@click.option("-w", "--watch", is_flag=True, help="Show what each device does, until Ctrl-C.")
@click.option("--links", is_flag=True, help="Show how the devices are joined.")
@output_option("table", "json", "yaml")
@click.pass_context
def devices(
    context: click.Context, *, inventory: str | None, watch: bool, links: bool, output: str
) -> None:
    """List the devices of all nodes.

    -o yaml writes an inventory that `plan --inventory` reads; -o json has every fact and reading.
    """
    if inventory is not None:
        if watch:
            raise click.UsageError("a file has nothing to watch; leave out --watch", context)
        _show_devices(_document_of(inventory), output, links=links)
        return
    with client_of(context) as client:
        if watch and output == "table":
            _watch_devices(client)
        else:
            _show_devices(client.inventory_document(), output, links=links)


@click.command()
@click.pass_context
def top(context: click.Context) -> None:
    """Show what each device does, each second until Ctrl-C; short for `devices --watch`."""
    with client_of(context) as client:
        _watch_devices(client)


def _document_of(file: str) -> dict[str, Any]:
    import json

    from placement.codec import encode

    from ..inventory_file import load_inventory

    quiet_logs()
    return {"inventory": json.loads(encode(load_inventory(file))), "problems": []}


def _show_devices(document: dict[str, Any], output: str, *, links: bool) -> None:
    if output == "json":
        print_json(document)
    elif output == "yaml":
        import json

        from placement.codec import decode
        from placement.inventory import Inventory

        from ..inventory_dump import dump_inventory

        found = decode(Inventory, json.dumps(document["inventory"]))
        click.echo(dump_inventory(found), nl=False)
    else:
        from .. import device_views

        shown = (
            [device_views.bonds_view(document)] if links else device_views.devices_view(document)
        )
        show(*shown)


def _watch_devices(client: Client) -> None:
    from .. import device_views

    _live(lambda: device_views.watch_view(client.inventory_document(), client.replicas()))


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
    from .. import views

    _live(lambda: views.replicas_table(client.replicas()))


def _live(view: Callable[[], RenderableType]) -> None:
    """Shows a view again each second, until Ctrl-C or until its data cannot be had any more."""
    from rich.live import Live

    with Live(console=console(), auto_refresh=False) as live:
        while True:
            live.update(view(), refresh=True)
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
