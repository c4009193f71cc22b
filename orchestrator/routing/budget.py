"""How many extra attempts a gateway may make, so that failing replicas do not multiply the load. Pure; time comes in."""

from __future__ import annotations

RATIO = 0.2
FLOOR = 3
WINDOW_S = 10.0


class RetryBudget:
    """At most `ratio` of the recent requests, and at least `floor`, may be tried again per window."""

    def __init__(
        self, ratio: float = RATIO, floor: int = FLOOR, window_s: float = WINDOW_S
    ) -> None:
        self._ratio = ratio
        self._floor = floor
        self._window_s = window_s
        self._since = 0.0
        self._requests = [0, 0]
        self._retries = [0, 0]

    def count(self, now: float) -> None:
        """Counts a client's request."""
        self._roll(now)
        self._requests[0] += 1

    def take(self, now: float) -> bool:
        """Whether one more attempt is allowed; counts it if so."""
        self._roll(now)
        if sum(self._retries) >= max(self._floor, self._ratio * sum(self._requests)):
            return False
        self._retries[0] += 1
        return True

    def _roll(self, now: float) -> None:
        """Keeps the running window and the one before it."""
        passed = int((now - self._since) / self._window_s)
        if passed <= 0:
            return
        self._since = now
        for counts in (self._requests, self._retries):
            counts[:] = [0, counts[0] if passed == 1 else 0]
