"""How the command ends: every outcome becomes an exit code, every error one clear text on standard error.

Also what commands share: options, the client of this user's cluster, printing documents.
"""

from __future__ import annotations

import json
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from .. import exit_codes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ..client import Client
    from ..settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_DEBUG = "--debug"


class _ReaderGoneError(Exception):
    """Whoever read our output has seen enough, as `head` does."""


class Program(click.Group):
    """The root group. What a command returns is the exit code; None is 0."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the main path, not of the alphabet."""
        return list(self.commands)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Reads the words, which may print the help."""
        with _reader_may_go():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        with _reader_may_go():
            outcome = super().invoke(ctx)
            sys.stdout.flush()
            return outcome

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> NoReturn:
        """Runs the command and exits."""
        argv = list(sys.argv[1:] if args is None else args)
        debug = _DEBUG in argv
        extra["standalone_mode"] = False
        try:
            outcome = super().main([a for a in argv if a != _DEBUG], *more, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(exit_codes.USAGE)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(exit_codes.INTERRUPTED)
        except _ReaderGoneError:
            # Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(exit_codes.OK)
        except Exception as error:  # noqa: BLE001 - the border of the program: each error gets its text and code
            sys.exit(_report(error, as_json=_asks_json(argv), debug=debug))
        sys.exit(outcome if isinstance(outcome, int) else exit_codes.OK)


@contextmanager
def _reader_may_go() -> Iterator[None]:
    """Tells a reader that has gone, which click would call a failure, from any other broken pipe."""
    try:
        yield
    except BrokenPipeError as error:
        raise (_ReaderGoneError() if _reader_gone() else RuntimeError(str(error))) from error


def _reader_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        watch = select.poll()
        watch.register(sys.stdout.fileno(), 0)
        return any(events & select.POLLERR for _, events in watch.poll(0))
    except (OSError, ValueError):
        return False


def _asks_json(argv: Sequence[str]) -> bool:
    """From the words themselves, so that an error of usage is JSON too."""
    joined = any(word in ("-ojson", "--output=json") for word in argv)
    return joined or any(
        word in ("-o", "--output") and value == "json" for word, value in pairwise(argv)
    )


def _report(error: Exception, *, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    described = _describe(error)
    if as_json:
        click.echo(json.dumps(described, default=str), err=True)
    else:
        click.echo(f"error: {described['message']}", err=True)
        if described["hint"]:
            click.echo(f"hint: {described['hint']}", err=True)
    return exit_codes.exit_code(str(described["code"]))


def _describe(error: Exception) -> dict[str, Any]:
    from placement.errors import ShardyardError

    if isinstance(error, ShardyardError):
        return error.as_dict()
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "shardyard"
        message = error.format_message().rstrip(".")
        return {"code": "spec.usage", "message": message, "hint": f"{path} --help"}
    says = f"{type(error).__name__}: {error}"
    hint = f"this is a bug of shardyard; the same command with {_DEBUG} shows where"
    return {"code": "internal", "message": says, "hint": hint}


def print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """Prints the version and ends."""
    if not value or context.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("shardyard")
    except PackageNotFoundError:
        number = "(from source)"
    click.echo(f"shardyard {number}")
    context.exit()


class Finite(click.FloatRange):
    """A number within limits; those of click let `nan` pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, or a usage error."""
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def output_option(*formats: str) -> Callable[[F], F]:
    """`-o`, the first format being the default."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="Format of the output.",
    )


def settings_of(context: click.Context, **flags: Any) -> Settings:
    """The settings, with the flags of the command."""
    from ..settings import load_settings

    quiet_logs()

    return load_settings(state=context.find_root().obj, **flags)


def quiet_logs() -> None:
    """Events of our own modules are for logs; a person sees warnings only, on standard error and in one line each."""
    import logging

    import structlog

    structlog.configure(
        processors=[
            _untraced,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _untraced(_logger: object, _name: str, event: Any) -> Any:
    """The error without its traceback, whose variables may hold what nobody should see."""
    error = sys.exc_info()[1]
    if event.pop("exc_info", None) and error is not None:
        event["error"] = f"{type(error).__name__}: {error}"
    return event


def client_of(context: click.Context, *, timeout_s: float | None = None) -> Client:
    """A client of this user's cluster."""
    from ..client import Client

    settings = settings_of(context, timeout_s=timeout_s)
    return Client.of(settings.control_file, timeout_s=settings.timeout_s)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def warn(notes: Sequence[str], *, as_json: bool) -> None:
    """What was assumed, on standard error: it stops nothing."""
    for note in notes:
        click.echo(json.dumps({"warning": note}) if as_json else f"warning: {note}", err=True)


def console() -> Console:
    """Standard output with colours where it is a terminal; wide where it is a file, so that no cell is cut."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            """Leaves it to the program, as with any other output."""
            raise BrokenPipeError

    width = None if sys.stdout.isatty() else 200
    return Output(width=width, highlight=False, markup=False, emoji=False)


def show(*parts: RenderableType) -> None:
    """Prints tables and lines."""
    out = console()
    for part in parts:
        out.print(part)
