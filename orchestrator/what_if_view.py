"""Tables of `plan --what-if`: from its document to rich renderables. Decides columns and words only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from .views import diff_table, plan_view, table

Row = Mapping[str, Any]

_LINES = (
    ("replicas", "replicas", "{:.0f}"),
    ("tokens_per_s", "tokens/s", "{:.0f}"),
    ("ttft_ms", "first token, ms", "{:.0f}"),
    ("token_ms", "per token, ms", "{:.1f}"),
    ("watts", "watts", "{:.0f}"),
    ("joules_per_token", "J/token", "{:.3g}"),
    ("price_per_hour", "price/h", "{:.2f}"),
)
_WORTH = (("value", "worth", "{:.3f}"), ("bound", "bound", "{:.3f}"))
_MOST_MODELS = 40


def what_if_view(document: Row) -> list[RenderableType]:
    """What would change: the verdict, figures in all and per model, and what would move."""
    difference = document["difference"]
    lines: list[RenderableType] = [f"what if {', '.join(document['changes'])}:", _verdict(document)]
    if not document["after"]["feasible"]:
        return [*lines, *plan_view(document["after"])]
    lines += [
        "",
        _totals(difference, same_policy=_same_policy(document)),
        "",
        *_models(difference["models"]),
        *_copies(difference),
    ]
    if document["before"]["feasible"]:
        return [*lines, "", *_moves(document["diff"])]
    return [*lines, "", *plan_view(document["after"])]


def _verdict(document: Row) -> Text:
    before, after = document["before"]["feasible"], document["after"]["feasible"]
    if before and after:
        return Text("feasible, as before", style="green")
    if after:
        conflict = ", ".join(document["before"]["conflict"])
        return Text(f"feasible; without it {conflict} cannot be placed", style="green")
    return Text("infeasible" if before else "infeasible, as before", style="red")


def _same_policy(document: Row) -> bool:
    return document["before"]["policy"] == document["after"]["policy"]


def _totals(difference: Row, *, same_policy: bool) -> RenderableType:
    """Worth is measured by the policy: under another one it is no gain or loss."""
    lines = (*_LINES, *_WORTH) if same_policy else _LINES
    rows = [
        (
            name,
            *(_cell(difference[key][side], form) for side in ("before", "after")),
            _by(difference[key], form),
        )
        for key, name, form in lines
    ]
    return table(("", "BEFORE", "AFTER", "CHANGE"), rows)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _by(pair: Row, form: str) -> str:
    """The change with its sign, absolute and relative."""
    change, before = pair["change"], pair["before"]
    if change is None or form.format(abs(change)) == form.format(0):
        return ""
    said = f"{'+' if change > 0 else '-'}{form.format(abs(change))}"
    return f"{said} ({change / before:+.1%})" if before else said


def _models(models: list[Row]) -> list[RenderableType]:
    """One line per model that changes."""
    changed = [m for m in models if any(_arrow(m[key], form)[1] for key, _, form in _LINES)]
    if not changed:
        return ["no model changes"]
    rows = [
        (m["model"], *(_arrow(m[key], form)[0] for key, _, form in _LINES))
        for m in changed[:_MOST_MODELS]
    ]
    shown: list[RenderableType] = [table(("MODEL", *(name.upper() for _, name, _ in _LINES)), rows)]
    if len(changed) > _MOST_MODELS:
        shown.append(f"and {len(changed) - _MOST_MODELS} more models (each one with -o json)")
    return shown


def _arrow(pair: Row, form: str) -> tuple[str, bool]:
    before, after = (_cell(pair[side], form) for side in ("before", "after"))
    return (after, False) if before == after else (f"{before} -> {after}", True)


def _copies(difference: Row) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for key, says in (("gained", "gain copies"), ("lost", "lose copies")):
        names = difference[key]
        if names:
            more = f" and {len(names) - 12} more" if len(names) > 12 else ""
            lines.append(f"{says}: {', '.join(names[:12])}{more}")
    return lines


def _moves(changes: list[Row]) -> list[RenderableType]:
    moved = [change for change in changes if change["kind"] != "keep"]
    kept = f"{len(changes) - len(moved)} replicas stay where they are"
    return [diff_table(moved), kept] if moved else [kept]
