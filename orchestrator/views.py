"""Tables for people: from the documents of the control API and of plans to rich renderables.

Decides columns and words on a terminal. It must not fetch anything, nor decide an outcome.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

_STYLES = {
    "ready": "green",
    "serving": "green",
    "ok": "green",
    "start": "green",
    "healthy": "green",
    "loading": "yellow",
    "starting": "yellow",
    "waiting": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "move": "yellow",
    "warn": "yellow",
    "degraded": "yellow",
    "degraded:": "yellow",
    "recovered": "yellow",
    "recovered:": "yellow",
    "lost:": "red",
    "failed": "red",
    "fail": "red",
    "stop": "red",
    "lost": "red",
    "infeasible": "red",
}
_MOST_REJECTIONS = 12
_MOST_NAMES = 12
_BAR = 10


def table(columns: Iterable[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table without lines, as `ps` has it. A cell that is a known state gets its colour."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def _cell(value: object) -> Text:
    word = str(value)
    return Text(word, style=_STYLES.get(word.partition(" ")[0], ""))


# -- problems ------------------------------------------------------------------------------------------------------


def problems_view(problems: Iterable[Row]) -> list[Text]:
    """What probes and replicas complain about, each with the next command."""
    lines = []
    for problem in problems:
        hint = f"  -> {problem['hint']}" if problem.get("hint") else ""
        lines.append(Text(f"{problem['where']}: {problem['reason']}{hint}", style="yellow"))
    return lines


# -- replicas -------------------------------------------------------------------------------------------------------


def replicas_table(rows: Iterable[Row]) -> Table:
    """What `ps` shows."""
    columns = ("NAME", "MODEL", "ENGINE", "DEVICES", "NODE", "STATE", "LOAD", "SINCE", "DETAIL")
    return table(columns, map(_replica_row, rows))


def _replica_row(row: Row) -> tuple[object, ...]:
    engine = "EMULATED" if row.get("emulated") else row["engine"]
    device_class = row.get("device_class", "")
    return (
        row["slot"],
        row["model"],
        engine,
        f"{device_class} {short_ids(row.get('devices', ()))}".strip(),
        row["node"],
        row["state"],
        _load(row),
        duration(row.get("since_s")),
        row.get("detail", ""),
    )


def _load(row: Row) -> str:
    """Progress while it loads, sequences in work of those it takes at once when it runs, where known."""
    if row["state"] == "loading":
        ratio = min(1.0, max(0.0, float(row.get("load_ratio", 0.0))))
        filled = round(ratio * _BAR)
        return f"{'#' * filled}{'.' * (_BAR - filled)} {ratio:.0%}"
    if row.get("running") is None:
        return "-"
    return f"{row['running']}/{row.get('concurrency', '?')}"


def short_ids(devices: Sequence[str]) -> str:
    """Device ids without repeating their node: `gpu-1/0,1,2,3`.

    >>> short_ids(["a/0", "a/1", "b/cpu0"])
    'a/0,1 b/cpu0'
    """
    by_node: dict[str, list[str]] = {}
    for device in devices:
        node, _, tail = device.rpartition("/")
        by_node.setdefault(node, []).append(tail)
    return " ".join(f"{node}/{','.join(tails)}" for node, tails in by_node.items())


def duration(seconds: float | None) -> str:
    """An age in its largest unit.

    >>> duration(200), duration(None)
    ('3m', '-')
    """
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


# -- status ---------------------------------------------------------------------------------------------------------


def status_word(status: Row) -> str:
    """serving, degraded, infeasible, or idle when nothing is asked for."""
    if status.get("infeasible"):
        return "infeasible"
    models = status["models"]
    if any(m["replicas_ready"] < m["replicas_wanted"] or m["problem"] for m in models):
        return "degraded"
    return "serving" if models else "idle"


def status_view(status: Row) -> list[RenderableType]:
    """The cluster at a glance."""
    facts = [
        ("state", status_word(status)),
        ("endpoint", status.get("endpoint", "-")),
        ("nodes", _nodes(status)),
        ("devices", status.get("devices", "-")),
        ("generation", f"{status['generation']} (spec revision {status['revision']})"),
        ("ray tools", status.get("ray_tools", "-")),
    ]
    models = table(
        ("MODEL", "READY", "WANTED", "KIND", "PROBLEM"),
        [
            (
                m["model"],
                m["replicas_ready"],
                m["replicas_wanted"],
                "EMULATED" if m["emulated"] else "real",
                m["problem"],
            )
            for m in status["models"]
        ],
    )
    conflict = [Text(f"cannot hold together: {c}", style="red") for c in status["infeasible"]]
    return [_facts(facts), "", models, *conflict, *problems_view(status["problems"])]


def _nodes(status: Row) -> str:
    silent = status.get("nodes_silent", 0)
    return f"{status['nodes']}" + (f" ({silent} silent)" if silent else "")


def _facts(facts: Iterable[tuple[str, object]]) -> Table:
    made = Table.grid(padding=(0, 2))
    for name, value in facts:
        made.add_row(Text(name, style="bold"), _cell(value))
    return made


# -- plans ----------------------------------------------------------------------------------------------------------


def plan_view(document: Row) -> list[RenderableType]:
    """A plan document: slots and quality, or what cannot hold together and what would help."""
    if not document["feasible"]:
        return _infeasible_view(document)
    gap = "proven best" if document["proven"] else f"within {document['gap']:.2%} of the bound"
    quality = (
        f"{len(document['slots'])} replicas, policy {document['policy']}, "
        f"generation {document['generation']}, {gap}"
    )
    unplaced = document["unplaced"]
    rest = [f"not placed (above the minimum): {_names(unplaced)}"] if unplaced else []
    return [slots_table(document["slots"]), "", quality, *rest]


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    left = len(names) - _MOST_NAMES
    return f"{shown} and {left} more" if left > 0 else shown


def slots_table(slots: Iterable[Row]) -> Table:
    """The planned replicas with their predictions."""
    columns = (
        "NAME",
        "ENGINE",
        "DEVICES",
        "LAYOUT",
        "DTYPE",
        "TTFT",
        "TOKEN",
        "TOKENS/S",
        "WATTS",
        "MEMORY",
    )
    return table(columns, map(_slot_row, slots))


def _slot_row(slot: Row) -> tuple[object, ...]:
    predicted = slot["predicted"]
    devices = [device for stage in slot["stages"] for device in stage["devices"]]
    return (
        slot["slot"],
        slot["engine"],
        short_ids(devices),
        f"tp{slot['tp']} pp{slot['pp']}",
        slot["dtype"],
        f"{predicted['ttft_ms']:.0f} ms",
        f"{predicted['token_ms']:.1f} ms",
        f"{predicted['tokens_per_s']:.0f}",
        f"{predicted['watts']:.0f}",
        f"{predicted['memory_gib_per_device']:.1f} GiB",
    )


def _infeasible_view(document: Row) -> list[RenderableType]:
    conflict, fixes = document["conflict"], document["fixes"]
    together = " together" if len(conflict) > 1 else ""
    says = f"infeasible: {_names(conflict) or 'the spec'} cannot be placed{together}"
    lines: list[RenderableType] = [Text(says, style="red")]
    # What is said of models outside the conflict did not make it infeasible.
    rejections = [r for r in document["rejections"] if r["model"] in conflict]
    lines += [f"  {_rejection(r)}" for r in rejections[:_MOST_REJECTIONS]]
    if len(rejections) > _MOST_REJECTIONS:
        counts = Counter(r["constraint"] for r in rejections)
        by_rule = ", ".join(f"{n} by {rule}" for rule, n in counts.most_common())
        lines.append(f"  in all: {by_rule} (each one with -o json)")
    lines += [f"  would help: {fix['says']}" for fix in fixes]
    # A controller of an earlier version knows no additions.
    added = document.get("additions", ())
    return lines + [f'  would help: {a["says"]}  (--what-if "{a["what_if"]}")' for a in added]


def _rejection(rejection: Row) -> str:
    where = rejection.get("class") or rejection.get("node") or "any device"
    hint = f" ({rejection['hint']})" if rejection.get("hint") else ""
    said = f"{rejection['constraint']}: {rejection['reason']}"
    return f"{rejection['model']} not on {where}: {said}{hint}"


def diff_table(changes: Iterable[Row]) -> Table:
    """What would change, one row per slot."""
    rows = [
        (
            change["kind"],
            change["slot"],
            short_ids(change["before"] or ()) or "-",
            short_ids(change["after"] or ()) or "-",
            change["reason"],
        )
        for change in changes
    ]
    return table(("CHANGE", "NAME", "FROM", "TO", "WHY"), rows)


# -- verification ---------------------------------------------------------------------------------------------------


_PROOFS = {
    "prices": "the plan is the best there is: its prices prove it",
    "search": "the plan is the best there is: a complete search found nothing better",
    "none": "a better plan is not excluded",
}


def verified_view(report: Row) -> list[RenderableType]:
    """What was derived anew about a plan, or the first thing in it that does not hold."""
    if not report["holds"]:
        first, *rest = report["faults"]
        more = [f"and {len(rest)} more (each one with -o json)"] if rest else []
        return [Text(f"refused: {first}", style="red"), *more]
    facts = [
        ("replicas", f"{report['replicas']}, each where it may be"),
        ("value", f"{report['value']:.6f}"),
        ("bound", f"{report['bound']:.6f} (prices alone: {report['dual_bound']:.6f})"),
        ("gap", f"{report['gap']:.4%}"),
        ("proof", f"{report['proof']}: {_PROOFS[report['proof']]}"),
    ]
    return [Text("the plan holds", style="green"), _facts(facts)]


# -- doctor ---------------------------------------------------------------------------------------------------------


def checks_table(checks: Iterable[Row]) -> Table:
    """What `doctor` found."""
    rows = [(c["status"], c["check"], c["detail"], c["hint"]) for c in checks]
    return table(("", "CHECK", "FOUND", "NEXT"), rows)
