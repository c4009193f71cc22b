"""Waiting ends when every asked replica is ready, or at the deadline, and not before."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import TimedOut
from orchestrator.waiting import PERIOD_S, until_ready


class Clock:
    """Virtual time: a pause moves it."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def pause(self, seconds: float) -> None:
        self.at += seconds


def row(slot: str, state: str, detail: str = "") -> dict[str, Any]:
    return {"slot": slot, "state": state, "detail": detail}


def test_it_looks_until_all_are_ready() -> None:
    clock = Clock()
    looks = iter([[row("m/r0", "loading")], [row("m/r0", "ready")]])
    seen = list(until_ready(lambda: next(looks), 60, now=clock.now, pause=clock.pause))
    assert [rows[0]["state"] for rows in seen] == ["loading", "ready"]
    assert clock.at == PERIOD_S


def test_a_slot_that_is_not_listed_is_waited_for_and_others_are_not() -> None:
    clock = Clock()
    other = row("x/r0", "loading")
    looks = iter([[other], [other, row("m/r0", "ready")]])
    rounds = until_ready(lambda: next(looks), 60, slots=["m/r0"], now=clock.now, pause=clock.pause)
    assert [[r["state"] for r in rows] for rows in rounds] == [["waiting"], ["ready"]]


def test_at_the_deadline_it_says_which_and_why() -> None:
    clock = Clock()
    rows = [row("m/r0", "ready"), row("m/r1", "failed", "no weights")]
    with pytest.raises(TimedOut) as caught:
        list(until_ready(lambda: rows, 3, now=clock.now, pause=clock.pause))
    assert "1 of 2 replicas are not ready after 3 s; m/r1 is failed (no weights)" in str(
        caught.value
    )
    assert caught.value.hint == "shardyard logs m/r1"
    assert clock.at == pytest.approx(3)
