"""Who may run now: a fixed number at once, a bounded queue in order of arrival behind them, nobody beyond.

It must not know what the work is. One event loop; no locks.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

from .errors import Refused

LONGEST_RETRY_S = 30
_SMOOTHING = 0.2


class Admission:
    """Counts of one replica.

    Args:
        concurrency: tickets that run at once.
        queue: tickets that may wait.
    """

    def __init__(self, concurrency: int, queue: int) -> None:
        self.concurrency = concurrency
        self.queue = queue
        self.held = 0
        self.running = 0
        self._turns: deque[asyncio.Future[None]] = deque()
        self._held_s = 1.0

    @property
    def waiting(self) -> int:
        """Tickets that do not run yet."""
        return self.held - self.running

    def reserve(self) -> Ticket:
        """A place in the queue.

        Raises:
            Refused: queue_full, with the time after which a place should be free.
        """
        if self.held >= self.concurrency + self.queue:
            raise Refused(
                f"the replica runs {self.running} requests and {self.waiting} wait",
                hint="try again later or add replicas",
                reason="queue_full",
                retry_after_s=self._retry_after_s(),
            )
        self.held += 1
        return Ticket(self)

    def _retry_after_s(self) -> float:
        rounds = (self.waiting + 1) / self.concurrency
        return min(LONGEST_RETRY_S, max(1, math.ceil(rounds * self._held_s)))

    async def _turn(self) -> None:
        if self.running < self.concurrency:
            self.running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def _leave(self, ran_s: float | None) -> None:
        self.held -= 1
        if ran_s is not None:
            self._held_s += _SMOOTHING * (ran_s - self._held_s)
            self._pass_on()


class Ticket:
    """One request's place; `leave` gives it back, whatever happened."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._since: float | None = None

    async def turn(self) -> None:
        """Waits, in order of arrival, until this request may run."""
        await self._admission._turn()
        self._since = asyncio.get_running_loop().time()

    def leave(self) -> None:
        """Frees the place, and the turn if it had come."""
        ran_s = None
        if self._since is not None:
            ran_s = asyncio.get_running_loop().time() - self._since
        self._admission._leave(ran_s)
