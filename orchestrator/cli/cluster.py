"""Commands that start and end things: up, down, node. Only the grammar; orchestrator.lifecycle does the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .program import Finite, settings_of

if TYPE_CHECKING:
    from ..node_entries import Level

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("spec", required=False, type=_FILE)
@click.option("--foreground", is_flag=True, help="Stay here; Ctrl-C ends everything and cleans up.")
@click.option("--join", metavar="ADDRESS", help="Use this running Ray cluster (never ended by us).")
@click.option(
    "--lab", metavar="FILE", type=_FILE, help="Emulate the cluster of FILE on this machine."
)
@click.option(
    "--level",
    type=click.Choice(["declared", "library"]),
    help="How deep the lab pretends: to us only, or to the vendors' own software [default: as FILE says].",
)
@click.option("--host", help="Address of the endpoint [default: 127.0.0.1, or what the spec says].")
@click.option(
    "--port", type=int, help="Port of the endpoint [default: 8000, or what the spec says]."
)
@click.option("--gateways", metavar="N", type=int, help="Gateway processes that share the port.")
@click.pass_context
def up(
    context: click.Context,
    spec: Path | None,
    *,
    foreground: bool,
    join: str | None,
    lab: Path | None,
    level: Level | None,
    host: str | None,
    port: int | None,
    gateways: int | None,
) -> None:
    """Start a cluster on this machine and serve SPEC. A second `up` is `apply`."""
    from ..lifecycle import UpRequest
    from ..lifecycle import up as start

    if join is not None and lab is not None:
        raise click.UsageError("--join and --lab exclude each other.", context)
    settings = settings_of(context, host=host, port=port, gateways=gateways)
    if level is not None and lab is None:
        raise click.UsageError("--level needs --lab.", context)
    request = UpRequest(spec=spec, foreground=foreground, join=join, lab=lab, level=level)
    start(request, settings, click.echo)


@click.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=Finite(min=0),
    default=3.0,
    show_default=True,
    help="Seconds in which processes may end by themselves before they are killed.",
)
@click.pass_context
def down(context: click.Context, *, timeout_s: float) -> None:
    """End exactly what `up` started on this machine."""
    from ..lifecycle import down as end

    if not end(settings_of(context), click.echo, term_s=timeout_s):
        click.echo("nothing is running")


@click.group()
def node() -> None:
    """Let this machine join or leave a cluster."""


@node.command("start")
@click.option("--head", is_flag=True, help="Begin a new cluster here.")
@click.option("--address", metavar="HOST:PORT", help="Join the cluster whose head is there.")
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=6379,
    show_default=True,
    help="Port of a new head.",
)
@click.option(
    "--dashboard-port",
    type=click.IntRange(1, 65_535),
    default=8265,
    show_default=True,
    help="Port of a new head's dashboard, where `ray job submit` goes.",
)
@click.option("--name", default="", help="Stable name of the node [default: from the machine].")
@click.option("--host", default="", help="Address of this machine that the other nodes reach.")
@click.option("--rack", default="", help="Rack of the node, for spread and link speeds.")
@click.option("--block", is_flag=True, help="Stay here; Ctrl-C makes the node leave.")
@click.option(
    "--emulate",
    metavar="FILE",
    type=_FILE,
    help="Pretend to have the devices of node NAME in FILE.",
)
@click.pass_context
def node_start(
    context: click.Context,
    *,
    head: bool,
    address: str | None,
    port: int,
    dashboard_port: int,
    name: str,
    host: str,
    rack: str,
    block: bool,
    emulate: Path | None,
) -> None:
    """Make this machine a node: --head begins a cluster, --address joins one."""
    from ..node_lifecycle import NodeRequest
    from ..node_lifecycle import node_start as start

    if head == (address is not None):
        raise click.UsageError("Give either --head or --address.", context)
    request = NodeRequest(
        address=address,
        port=port,
        dashboard_port=dashboard_port,
        name=name,
        host=host,
        rack=rack,
        emulate=emulate,
        block=block,
    )
    start(request, settings_of(context), click.echo)


@node.command("stop")
@click.pass_context
def node_stop(context: click.Context) -> None:
    """End what `node start` started on this machine."""
    from ..node_lifecycle import node_stop as stop

    stop(settings_of(context), click.echo)
