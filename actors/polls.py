"""Polls probes for what their devices do now, each no more often than its cost allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from .host import Host
from .looks import Looks, Outcome
from .probe import Found, LiveProbe
from .report import BrokenProbe, Poll, Reading

POLL_DEADLINE_S = 2.0
POLL_PERIOD_S = 1.0
POLL_SHARE = 0.01
"""A probe may take this part of a core for polling: one that costs 30 ms is polled every 3 s."""

RAREST_S = 20.0
"""Rarer than this would be blind to heat; most of what a slow tool costs is waiting."""

HINT = "shardyard doctor    on the node"

EARLY_S = 0.1
"""The caller's own period is no exact one."""


def _period_s(cost_s: float) -> float:
    return min(max(POLL_PERIOD_S, cost_s / POLL_SHARE), RAREST_S)


class Polls:
    """The last readings of a node's probes, and what it cost to get them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._looks = Looks[Mapping[str, Reading]]("poll")
        self._due: dict[str, float] = {}
        self._cost: dict[str, float] = {}
        self._last: dict[str, Mapping[str, Reading]] = {}
        self._failures: dict[str, BrokenProbe] = {}

    def readings(self, probes: Mapping[str, tuple[LiveProbe, Found]]) -> dict[str, Reading]:
        """By identity; of probes that are not due their last ones."""
        now = time.monotonic()
        due = {
            name: _poll_call(probe, self._host, found)
            for name, (probe, found) in probes.items()
            if now >= self._due.get(name, 0.0) and (found.devices or found.accelerators)
        }
        for name, said in self._looks.all(due, POLL_DEADLINE_S).items():
            self._cost[name] = said.seconds
            self._due[name] = now + _period_s(said.seconds) - EARLY_S
            self._last[name] = _believed(said)
            self._failures.pop(name, None)
            if said.raised or said.hangs:
                why = said.raised or f"no answer within {POLL_DEADLINE_S:g} s"
                self._failures[name] = BrokenProbe(name=name, reason=f"polling: {why}", hint=HINT)
        return {
            identity: reading
            for name in probes
            for identity, reading in self._last.get(name, {}).items()
        }

    def failures(self) -> tuple[BrokenProbe, ...]:
        """Probes whose last poll raised or hangs."""
        return tuple(self._failures[name] for name in sorted(self._failures))

    def costs(self) -> tuple[Poll, ...]:
        """What each probe's last poll cost."""
        return tuple(
            Poll(probe=name, cost_s=round(cost, 4), period_s=_period_s(cost))
            for name, cost in sorted(self._cost.items())
        )


def _poll_call(probe: LiveProbe, host: Host, found: Found) -> Callable[[], Mapping[str, Reading]]:
    return lambda: probe.poll(host, found)


def _believed(said: Outcome[Mapping[str, Reading]]) -> Mapping[str, Reading]:
    answer: object = said.answer
    if not isinstance(answer, Mapping):
        return {}
    return {i: r for i, r in answer.items() if isinstance(i, str) and isinstance(r, Reading)}
