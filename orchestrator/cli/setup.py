"""Commands about the installation itself: doctor, schema, completion."""

from __future__ import annotations

from dataclasses import asdict

import click

from .. import exit_codes
from .program import output_option, print_json, settings_of, show


@click.command()
@output_option("table", "json")
@click.pass_context
def doctor(context: click.Context, *, output: str) -> int:
    """Check this machine and installation.

    Each finding names the next command. Exit code 5 when a check failed.
    """
    from ..doctor import examine

    checks = [asdict(check) for check in examine(settings_of(context))]
    if output == "json":
        print_json({"checks": checks})
    else:
        from .. import views

        show(views.checks_table(checks))
    failed = any(check["status"] == "fail" for check in checks)
    return exit_codes.DEGRADED if failed else exit_codes.OK


@click.command()
@click.argument("kind", type=click.Choice(["app", "inventory", "plan"]))
def schema(kind: str) -> None:
    """Print the JSON Schema of a file.

    app: a spec. inventory: an inventory or lab. plan: what `plan -o json` prints.
    """
    from ..schema import json_schema

    print_json(json_schema(kind))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    For bash, in ~/.bashrc: eval "$(shardyard completion bash)".
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}", context)
    root = context.find_root().command
    click.echo(kind(root, {}, "shardyard", "_SHARDYARD_COMPLETE").source())
