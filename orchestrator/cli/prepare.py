"""The command prepare: other forms of a model's files, for engines that do not read its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .program import output_option, print_json, quiet_logs, show

if TYPE_CHECKING:
    from actors.forms.store import Prepared

_FORMS = ("safetensors", "onnx", "gguf")
_DTYPES = ("fp32", "fp16", "bf16", "int8", "int4")


@click.command()
@click.argument("source", required=False)
@click.option("--form", type=click.Choice(_FORMS), help="The format to make.")
@click.option(
    "--dtype", type=click.Choice(_DTYPES), help="Of its weights; fp32, for gguf fp16, without it."
)
@click.option("--list", "listed", is_flag=True, help="List what was prepared on this machine.")
@click.option("--force", is_flag=True, help="Make it anew, also when it is there.")
@click.option(
    "--timeout",
    "minutes",
    type=click.FloatRange(min=0, max=1440, min_open=True),
    default=60.0,
    show_default=True,
    metavar="MINUTES",
)
@output_option("text", "json")
def prepare(source: str | None, *, listed: bool, output: str, **flags: Any) -> None:
    """Make another form of the model SOURCE on this machine, in SHARDYARD_FORMS.

    safetensors: a Hugging Face folder, which torch and vllm read. onnx: a graph, which onnxruntime
    reads. gguf: with un-quantised weights, so that every engine computes with the same ones.
    A form is found once it is whole; after a failure or Ctrl-C nothing of it is left.
    """
    quiet_logs()
    if listed == (source is not None):
        raise click.UsageError("give either a SOURCE or --list", click.get_current_context())
    if source is None:
        _list(output)
    else:
        _prepare(source, output=output, **flags)


def _prepare(
    source: str, *, form: str | None, dtype: Any, force: bool, minutes: float, output: str
) -> None:
    import threading

    from ..endings import signals
    from ..preparing import prepare as make

    if form is None:
        raise click.UsageError("--form is missing", click.get_current_context())
    with signals(threading.Event()):
        found = make(
            source,
            form,
            dtype,
            lambda line: click.echo(line, err=True),
            force=force,
            deadline_s=minutes * 60,
        )
    row = {"source": source, "form": found.format, "dtype": found.dtype, "path": str(found.path)}
    if output == "json":
        print_json(row)
    else:
        click.echo(f"{source}: {found.format} in {found.path}")


def _list(output: str) -> None:
    from actors.forms.store import everything

    rows = [_row(form) for form in everything()]
    if output == "json":
        print_json({"forms": rows})
        return
    from ..views import table

    head = ("FORM", "DTYPE", "GIB", "SOURCE", "PATH", "FLAW")
    cells = [
        (r["form"], r["dtype"], f"{r['size_bytes'] / 2**30:.2f}", r["source"], r["path"], r["flaw"])
        for r in rows
    ]
    show(table(head, cells))


def _row(prepared: Prepared) -> dict[str, Any]:
    form = prepared.form
    return {
        "form": form.format,
        "dtype": form.dtype,
        "size_bytes": prepared.size_bytes,
        "source": prepared.source,
        "made": prepared.made,
        "path": str(form.path),
        "flaw": prepared.flaw,
    }
