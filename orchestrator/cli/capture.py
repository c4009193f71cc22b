"""The command `capture`: this machine as a recording that probes replay."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import exit_codes
from .program import settings_of, warn

if TYPE_CHECKING:
    from actors.capture import Captured
    from actors.probe import Probe

_SALT_BYTES = 16
_MOST_DIFFERENCES = 10


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--no-hash", is_flag=True, help="Keep serial numbers, UUIDs and names of machines as they are."
)
@click.pass_context
def capture(context: click.Context, *, directory: Path, no_hash: bool) -> int:
    """Record what this machine tells of its devices into DIRECTORY, for a bug report or a test.

    Files, tool outputs and answers of libraries that the probes ask for, and nothing else. Serial
    numbers, UUIDs and names of machines are replaced by hashes. Exit code 1 when a replay of the
    recording finds something else than the machine has.
    """
    from actors.capture import capture as record
    from actors.host import RealHost
    from actors.names import RECORDING_ENV

    from ..replayed import recorded

    settings_of(context)
    real = RealHost()
    recording = os.environ.get(RECORDING_ENV)
    host = recorded(Path(recording)) if recording else real
    try:
        done = record(host, _probes(), directory, os.urandom(_SALT_BYTES), hashed=not no_hash)
    finally:
        real.libraries.close()
    return _say(directory, done)


def _probes() -> dict[str, Callable[[], Probe]]:
    """All that are installed; those that cannot be loaded are named on standard error."""
    from actors.plugins import PROBES_GROUP, PROBES_PACKAGE, load_plugins

    plugins = load_plugins(PROBES_PACKAGE, PROBES_GROUP)
    warn([f"{broken.name}: {broken.reason}" for broken in plugins.broken], as_json=False)
    return dict(plugins.found)


def _say(directory: Path, done: Captured) -> int:
    for name, words in done.found:
        click.echo(f"{name}: {words}")
    click.echo(f"{directory}: {done.files} files")
    if not done.differences:
        click.echo("replayed: identical")
        return exit_codes.OK
    click.echo(f"replayed: {len(done.differences)} differences")
    for line in done.differences[:_MOST_DIFFERENCES]:
        click.echo(f"  {line}")
    return exit_codes.BUG
