"""The command verify: whether a plan holds, derived anew from the problem and the plan's prices."""

from __future__ import annotations

import click

from .. import exit_codes
from .program import output_option, print_json, show, warn


@click.command()
@click.argument("plan")
@click.argument("spec")
@click.option("--inventory", metavar="FILE", required=True, help="The inventory it was made for.")
@click.option(
    "--calibrations",
    metavar="FILE",
    help="The measurements it was made with, beside those of the inventory.",
)
@output_option("table", "json")
def verify(plan: str, spec: str, *, inventory: str, calibrations: str | None, output: str) -> int:
    """Check that PLAN, as `plan -o json` printed it, holds for SPEC.

    Derives feasibility, value, bound and gap anew from the problem and the plan's prices, sharing nothing
    with the solver. A plan that does not hold ends with exit code 3 and the first thing that is wrong.
    """
    from .. import views
    from ..verifying import verify_files

    report = verify_files(plan, inventory, spec, calibrations=calibrations)
    warn(report.notes, as_json=output == "json")
    if output == "json":
        print_json(report.document())
    else:
        show(*views.verified_view(report.document()))
    return exit_codes.OK if report.holds else exit_codes.INFEASIBLE
