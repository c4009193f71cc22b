"""Waiting for replicas: looks again and again until all are ready, or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from .errors import TimedOut

PERIOD_S = 0.5

Rows = list[dict[str, Any]]


def until_ready(
    replicas: Callable[[], Rows],
    timeout_s: float,
    *,
    slots: Collection[str] = (),
    now: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Rows]:
    """The rows of all replicas, again and again, the last time when every one is ready.

    Args:
        slots: only these, and they may not be listed yet; empty = whatever is listed.

    Raises:
        TimedOut: some were not ready in time; says which and why.
    """
    deadline = now() + timeout_s
    while True:
        rows = _asked(replicas(), slots)
        yield rows
        waiting = [row for row in rows if row["state"] != "ready"]
        if not waiting:
            return
        if now() >= deadline:
            raise _too_late(waiting, len(rows), timeout_s)
        pause(PERIOD_S)


def _asked(rows: Rows, slots: Collection[str]) -> Rows:
    if not slots:
        return rows
    listed = {row["slot"]: row for row in rows}
    return [listed.get(slot, _unlisted(slot)) for slot in sorted(slots)]


def _unlisted(slot: str) -> dict[str, Any]:
    """A slot of an accepted plan that the controller has not begun with."""
    model = slot.rpartition("/")[0]
    return {"slot": slot, "model": model, "engine": "", "node": "", "state": "waiting"}


def _too_late(waiting: Rows, total: int, timeout_s: float) -> TimedOut:
    row = waiting[0]
    why = f" ({row['detail']})" if row.get("detail") else ""
    says = (
        f"{len(waiting)} of {total} replicas are not ready after {timeout_s:g} s; "
        f"{row['slot']} is {row['state']}{why}"
    )
    return TimedOut(says, hint=f"shardyard logs {row['slot']}", slots=[r["slot"] for r in waiting])
