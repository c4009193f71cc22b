"""Commands that start and end things: up, down, node. Only the grammar; orchestrator.lifecycle does the work."""

from __future__ import annotations

from pathlib import Path

import click

from .program import settings_of

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("spec", required=False, type=_FILE)
@click.option("--foreground", is_flag=True, help="Stay here; Ctrl-C ends everything and cleans up.")
@click.option("--join", metavar="ADDRESS", help="Use this running Ray cluster (never ended by us).")
@click.option(
    "--lab", metavar="FILE", type=_FILE, help="Emulate the cluster of FILE on this machine."
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
    host: str | None,
    port: int | None,
    gateways: int | None,
) -> int | None:
    """Start a cluster on this machine and serve SPEC. A second `up` is `apply`."""
    from .. import lifecycle

    if spec is None and lab is None:
        raise click.UsageError("Missing argument 'SPEC' (or option '--lab FILE').", context)
    if join is not None and lab is not None:
        raise click.UsageError("--join and --lab exclude each other.", context)
    settings = settings_of(context, host=host, port=port, gateways=gateways)
    return lifecycle.up(settings=settings, spec=spec, foreground=foreground, join=join, lab=lab)


@click.command()
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), default=30.0, show_default=True
)
@click.pass_context
def down(context: click.Context, *, timeout_s: float) -> int | None:
    """End exactly what `up` started on this machine."""
    from .. import lifecycle

    return lifecycle.down(settings=settings_of(context), timeout_s=timeout_s)


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
@click.option("--name", help="Stable name of the node [default: from the machine].")
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
    name: str | None,
    rack: str,
    block: bool,
    emulate: Path | None,
) -> int | None:
    """Make this machine a node: --head begins a cluster, --address joins one."""
    from .. import lifecycle

    if head == (address is not None):
        raise click.UsageError("Give either --head or --address.", context)
    return lifecycle.node_start(
        settings=settings_of(context),
        head=head,
        address=address,
        port=port,
        name=name,
        rack=rack,
        block=block,
        emulate=emulate,
    )


@node.command("stop")
@click.pass_context
def node_stop(context: click.Context) -> int | None:
    """End what `node start` started on this machine."""
    from .. import lifecycle

    return lifecycle.node_stop(settings=settings_of(context))
