"""The command that talks to a model: run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import click

from .program import Finite, client_of, settings_of

_Message = dict[str, str]


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="Longest answer [default: the window]."
)
@click.option("--temperature", type=Finite(0, 2), help="0 = always the likeliest token.")
@click.option("--endpoint", metavar="URL", help="OpenAI endpoint [default: of your cluster].")
@click.pass_context
def run(
    context: click.Context,
    model: str,
    prompt: str | None,
    *,
    max_tokens: int | None,
    temperature: float | None,
    endpoint: str | None,
) -> None:
    """Ask MODEL. Without PROMPT: a conversation on a terminal, else the prompt is standard input."""
    from ..client import chat

    where = endpoint.rstrip("/") if endpoint else _endpoint(context)
    api_key = settings_of(context).api_key
    wishes = {"max_tokens": max_tokens, "temperature": temperature}
    options = {name: value for name, value in wishes.items() if value is not None}

    def answer(messages: list[_Message]) -> str:
        return _print(chat(where, model, messages, api_key=api_key, **options))

    if prompt is None and sys.stdin.isatty():
        _converse(answer)
    else:
        text = prompt if prompt is not None else sys.stdin.read()
        answer([{"role": "user", "content": text}])


def _endpoint(context: click.Context) -> str:
    with client_of(context) as client:
        return str(client.status()["endpoint"])


def _print(pieces: Iterator[str]) -> str:
    """Prints an answer as it comes; returns it whole."""
    said = []
    for piece in pieces:
        click.echo(piece, nl=False)
        said.append(piece)
    click.echo()
    return "".join(said)


def _converse(answer: Callable[[list[_Message]], str]) -> None:
    messages: list[_Message] = []
    click.echo("A conversation; Ctrl-D ends it.", err=True)
    while True:
        try:
            text = input("> ")
        except EOFError:
            click.echo()
            return
        if not text.strip():
            continue
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": answer(messages)})
