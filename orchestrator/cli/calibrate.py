"""The command that measures real engines on this machine: calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .program import Finite, output_option, print_json, settings_of, show

if TYPE_CHECKING:
    from actors.calibrate import Measured
    from placement.calibration import Calibration


@click.command()
@click.argument("target", metavar="SPEC|SOURCE")
@click.option("--model", help="Only this model of SPEC.")
@click.option("--engine", default="openvino", show_default=True, help="The engine to measure.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Cores of a CPU [default: all].")
@click.option(
    "--budget-s",
    "budget_s",
    type=Finite(5, 3600),
    default=60.0,
    show_default=True,
    help="Time for each model, without loading it.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write a copy here.")
@output_option("table", "json")
@click.pass_context
def calibrate(
    context: click.Context,
    target: str,
    *,
    model: str | None,
    engine: str,
    threads: int | None,
    budget_s: float,
    out: Path | None,
    output: str,
) -> None:
    """Measure a real engine on this machine, for the planner.

    SPEC|SOURCE is a spec file, or a model source such as package://NAME. No cluster is needed, and none may be serving
    here meanwhile. What was measured is kept under $SHARDYARD_STATE/calibrations; `plan --calibrations FILE` uses it.
    """
    from .. import calibrating, calibrations

    state = settings_of(context).state
    bench = calibrating.find_bench(engine, threads)
    found: list[Calibration] = []
    for subject in calibrating.subjects(target, model):
        click.echo(f"measuring {subject.name} with {engine} on {bench.device.id} ...", err=True)
        calibration, measured = calibrating.calibrate(subject, bench, budget_s=budget_s)
        found.append(calibration)
        click.echo(f"written: {calibrating.keep(calibration, state)}", err=True)
        if output == "table":
            show(_table(calibration, measured))
    if out is not None:
        calibrations.write(out, calibrations.dump(found))
    if output == "json":
        print_json({"calibrations": [calibrations.as_entry(c) for c in found]})


def _table(found: Calibration, measured: Measured) -> Any:
    from ..views import table

    line = [(str(b), f"{s * 1e3:.2f}", f"{b / s:.1f}") for b, s in measured.steps]
    fit = f"{found.token_s_fixed * 1e3:.2f} + {found.token_s_per_sequence * 1e3:.2f} B"
    more = [
        ("line", fit, f"+-{found.uncertainty:.0%}"),
        ("prefill", "", f"{found.prefill_tokens_per_s:.1f}"),
    ]
    return table(("BATCH", "STEP MS", "TOKENS/S"), [*line, *more])
