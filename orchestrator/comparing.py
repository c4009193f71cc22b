"""Two plans side by side, as one document: what `plan --what-if -o json` prints, and what its tables are made of.

Decides keys and units. It must not solve, nor know a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from placement.effects import Effect, Totals, effects
from placement.plan import Change, Infeasible, Plan

_MILLI = 1e3

_FIGURES: tuple[tuple[str, Callable[[Totals], float | None]], ...] = (
    ("replicas", lambda t: t.replicas),
    ("tokens_per_s", lambda t: t.tokens_per_s),
    ("ttft_ms", lambda t: None if t.ttft_s is None else t.ttft_s * _MILLI),
    ("token_ms", lambda t: None if t.token_s is None else t.token_s * _MILLI),
    ("watts", lambda t: t.power_w),
    ("joules_per_token", lambda t: t.joules_per_token),
    ("price_per_hour", lambda t: t.price_per_hour),
)


def difference_document(before: Plan | Infeasible, after: Plan | Infeasible) -> dict[str, Any]:
    """Figures of both plans, in all and per model; null where there is no plan or no replica."""
    old, new = (plan if isinstance(plan, Plan) else None for plan in (before, after))
    total, *models = effects(old, new)
    return {
        "feasible": {"before": old is not None, "after": new is not None},
        "value": _pair(old.value if old else None, new.value if new else None),
        "bound": _pair(old.bound if old else None, new.bound if new else None),
        **_figures(total),
        "models": [{"model": effect.model, **_figures(effect)} for effect in models],
        "gained": [e.model for e in models if e.gained > 0],
        "lost": [e.model for e in models if e.gained < 0],
    }


def diff_rows(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Lines of a diff: where each slot was and where it will be."""
    return [
        {
            "kind": change.kind,
            "slot": change.slot,
            "before": None if change.before is None else list(change.before.devices),
            "after": None if change.after is None else list(change.after.devices),
            "reason": change.reason,
        }
        for change in changes
    ]


def _figures(effect: Effect) -> dict[str, Any]:
    return {name: _pair(get(effect.before), get(effect.after)) for name, get in _FIGURES}


def _pair(before: float | None, after: float | None) -> dict[str, float | None]:
    known = before is not None and after is not None
    return {"before": before, "after": after, "change": after - before if known else None}
