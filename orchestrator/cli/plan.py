"""Commands about placement: plan, apply, scale, explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from placement.errors import SpecError

from .. import exit_codes
from .program import Finite, client_of, console, output_option, print_json, quiet_logs, show, warn

if TYPE_CHECKING:
    from ..client import Client
    from ..offline import Asked

_APPLY_TIMEOUT_S = 120.0
"""`apply` and a dry run wait for the nodes to look for the model, and for the solver."""

_calibrations_option = click.option(
    "--calibrations",
    metavar="FILE",
    help="Measurements that count beside the inventory's; a folder holds several. Needs --inventory.",
)


@click.command()
@click.argument("spec")
@click.option("--inventory", metavar="FILE", help="Plan on this inventory; no cluster is needed.")
@click.option("--explain", "explained", is_flag=True, help="Say why, and why nothing else.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the solver; only with --inventory."
)
@click.option(
    "--what-if",
    metavar="CHANGE",
    multiple=True,
    help="Compare with the plan after a change, e.g. '+2 FURIOSA_RNGD@npu-1', '-node n7' or "
    "'models.m.replicas=4'; may be repeated. Needs --inventory.",
)
@click.option(
    "--deadline",
    "deadline_s",
    type=Finite(min=0),
    metavar="SECONDS",
    help="Take the best plan after so many CPU seconds. Needs --inventory.",
)
@_calibrations_option
@output_option("table", "json")
@click.pass_context
def plan(
    context: click.Context,
    spec: str,
    *,
    inventory: str | None,
    explained: bool,
    seed: int,
    what_if: tuple[str, ...],
    deadline_s: float | None,
    calibrations: str | None,
    output: str,
) -> int:
    """Show where SPEC would be placed, without changing anything. SPEC - is standard input."""
    quiet_logs()
    if inventory is None:
        _need_inventory(
            {"--what-if": what_if or None, "--deadline": deadline_s, "--calibrations": calibrations}
        )
        answer, said = _plan_on_cluster(context, spec)
    else:
        from ..offline import Asked

        asked = Asked(seed=seed, deadline_s=deadline_s, calibrations=calibrations)
        if what_if:
            return _compare(spec, inventory, what_if, asked, explained=explained, output=output)
        answer, said = _plan_offline(spec, inventory, asked, explained=explained, output=output)
    document = answer["document"]
    if output == "json":
        print_json({**document, "explanation": said} if explained else document)
    else:
        _show_answer(answer)
        if explained:
            show("", *said)
    return exit_codes.OK if document["feasible"] else exit_codes.INFEASIBLE


def _need_inventory(given: dict[str, object]) -> None:
    """Refuses options that a cluster's controller does not take."""
    for name, value in given.items():
        if value is not None:
            hint = "`shardyard devices -o yaml` writes the inventory of this cluster"
            raise SpecError(f"{name} needs --inventory FILE", hint=hint)


def _plan_offline(
    spec: str, inventory: str, asked: Asked, *, explained: bool, output: str
) -> tuple[dict[str, Any], list[str]]:
    from placement.codec import plan_document

    from ..explaining import front_documents, sentences
    from ..fingerprints import fingerprints
    from ..offline import plan_files

    planned = plan_files(spec, inventory, asked)
    warn(planned.notes, as_json=output == "json")
    document = plan_document(planned.outcome, cpu_s=planned.cpu_s)
    document["made_for"] = fingerprints(planned.problem)
    if output == "json":
        document["fronts"] = front_documents(planned.problem, planned.outcome)
    said = sentences(planned.outcome, problem=planned.problem) if explained else []
    return {"document": document, "diff": []}, said


def _compare(
    spec: str,
    inventory: str,
    what_if: tuple[str, ...],
    asked: Asked,
    *,
    explained: bool,
    output: str,
) -> int:
    """Shows the plan of now beside that after the changes."""
    from placement.codec import plan_document

    from ..comparing import diff_rows, difference_document
    from ..explaining import sentences
    from ..offline import compare_files

    found = compare_files(spec, inventory, what_if, asked)
    warn(tuple(dict.fromkeys((*found.before.notes, *found.after.notes))), as_json=output == "json")
    before, after = found.before.outcome, found.after.outcome
    document = {
        "before": plan_document(before, cpu_s=found.before.cpu_s),
        "after": plan_document(after, cpu_s=found.after.cpu_s),
        "changes": list(found.changes),
        "difference": difference_document(before, after),
        "diff": diff_rows(found.moves),
    }
    said = sentences(after, problem=found.after.problem) if explained else []
    if output == "json":
        print_json({**document, "explanation": said} if explained else document)
    else:
        from ..what_if_view import what_if_view

        show(*what_if_view(document))
        if explained:
            show("", *said)
    return exit_codes.OK if document["after"]["feasible"] else exit_codes.INFEASIBLE


def _plan_on_cluster(context: click.Context, spec: str) -> tuple[dict[str, Any], list[str]]:
    from ..spec import load_app

    app = load_app(spec)
    with client_of(context, timeout_s=_APPLY_TIMEOUT_S) as client:
        answer = client.dry_run(app)
    return answer, answer.get("explanation", [])


@click.command()
@click.argument("spec")
@click.option("--wait/--no-wait", default=True, help="Wait until every replica is ready.")
@click.option("--timeout", "timeout_s", type=Finite(min=0), default=600.0, show_default=True)
@output_option("table", "json")
@click.pass_context
def apply(context: click.Context, spec: str, *, wait: bool, timeout_s: float, output: str) -> int:
    """Make the cluster serve SPEC. SPEC - is standard input."""
    from ..spec import parse_app, read_spec, spec_name

    text = read_spec(spec)
    app = parse_app(text, spec_name(spec))
    with client_of(context, timeout_s=_APPLY_TIMEOUT_S) as client:
        return _carry_out(client, client.apply(app, text), wait, timeout_s, output)


@click.command()
@click.argument("model")
@click.argument("replicas", type=int)
@click.option("--wait/--no-wait", default=True, help="Wait until every replica is ready.")
@click.option("--timeout", "timeout_s", type=Finite(min=0), default=600.0, show_default=True)
@output_option("table", "json")
@click.pass_context
def scale(
    context: click.Context, model: str, replicas: int, *, wait: bool, timeout_s: float, output: str
) -> int:
    """Change the number of REPLICAS of MODEL."""
    with client_of(context, timeout_s=_APPLY_TIMEOUT_S) as client:
        return _carry_out(client, client.scale(model, replicas), wait, timeout_s, output)


def _carry_out(
    client: Client, answer: dict[str, Any], wait: bool, timeout_s: float, output: str
) -> int:
    """Shows an answer of the controller and follows the replicas until they are ready."""
    if output == "json":
        print_json(answer)
    else:
        _show_answer(answer)
    if not answer["document"]["feasible"]:
        return exit_codes.INFEASIBLE
    if wait:
        slots = [slot["slot"] for slot in answer["document"]["slots"]]
        _follow(client, slots, timeout_s, quiet=output == "json")
    return exit_codes.OK


def _follow(client: Client, slots: list[str], timeout_s: float, *, quiet: bool) -> None:
    from rich.live import Live

    from .. import views
    from ..waiting import until_ready

    out = console()
    if quiet or not out.is_terminal:
        for _ in until_ready(client.replicas, timeout_s, slots=slots):
            pass
        return
    with Live(console=out, refresh_per_second=4) as live:
        for rows in until_ready(client.replicas, timeout_s, slots=slots):
            live.update(views.replicas_table(rows))


def _show_answer(answer: dict[str, Any]) -> None:
    from .. import views

    if answer["diff"]:
        show(views.diff_table(answer["diff"]))
    show(*views.plan_view(answer["document"]))


@click.command()
@click.argument("about", metavar="[SLOT|MODEL]", default="")
@click.option(
    "--inventory",
    nargs=2,
    metavar="FILE SPEC",
    help="Explain the plan of SPEC on this inventory; no cluster is needed.",
)
@_calibrations_option
@output_option("table", "json")
@click.pass_context
def explain(
    context: click.Context,
    about: str,
    *,
    inventory: tuple[str, str] | None,
    calibrations: str | None,
    output: str,
) -> int:
    """Say why each replica is where it is.

    And why every other way lost: named rule, both figures, nearest miss.
    """
    if inventory is not None:
        said = _explain_offline(about, *inventory, calibrations, output)
    else:
        _need_inventory({"--calibrations": calibrations})
        with client_of(context) as client:
            said = client.explain(about)
    if output == "json":
        print_json({"about": about, "sentences": said})
    else:
        show(*said)
    return exit_codes.OK


def _explain_offline(
    about: str, inventory: str, spec: str, calibrations: str | None, output: str
) -> list[str]:
    from ..explaining import sentences
    from ..offline import Asked, plan_files

    planned = plan_files(spec, inventory, Asked(calibrations=calibrations))
    warn(planned.notes, as_json=output == "json")
    return sentences(planned.outcome, about, planned.problem)
