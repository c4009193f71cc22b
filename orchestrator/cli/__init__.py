"""The command `shardyard`: its grammar. Never imports Ray, and nothing heavy before a command runs."""

from __future__ import annotations

import click

from . import calibrate, capture, chat, cluster, environment, observe, plan, prepare, setup, verify
from .program import Program, print_version


@click.group(
    cls=Program,
    name="shardyard",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start here: shardyard up examples/quickstart/app.yaml --foreground",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=print_version,
    help="Show the version and exit.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False),
    help="Folder of the state of your clusters (SHARDYARD_STATE).",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
@click.pass_context
def main(context: click.Context, state: str | None) -> None:
    """Place model shards on whatever accelerators a cluster has, and serve them behind one OpenAI endpoint.

    Exit codes: 0 ok, 1 a bug of ours, 2 usage or spec, 3 infeasible, 4 cluster unreachable,
    5 degraded or timed out, 130 interrupted.
    """
    context.obj = state


for command in (
    cluster.up,
    cluster.down,
    cluster.node,
    plan.plan,
    verify.verify,
    plan.apply,
    plan.scale,
    plan.explain,
    observe.devices,
    observe.top,
    observe.ps,
    observe.status,
    observe.logs,
    chat.run,
    calibrate.calibrate,
    environment.env,
    prepare.prepare,
    setup.doctor,
    capture.capture,
    setup.schema,
    setup.completion,
):
    main.add_command(command)
