"""Whether an engine that has work still moves: it has stalled when nothing came of it for much longer than it should take.

Decides from the cost model how long a silence may be. It must not know why an engine is silent, nor what follows.
"""

from __future__ import annotations

from .engine import Pace

LEAST_S = 15.0
"""Figures of a cost model are off by a factor on a machine that is busy with something else."""

FACTOR = 10.0


class Pulse:
    """What one engine has to do, and when it last did some of it. Times are seconds of one clock."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waiting: dict[object, int] = {}
        self._running = 0
        self._moved = 0.0

    @property
    def working(self) -> int:
        """Sequences in the engine."""
        return self._running

    def begins(self, key: object, prompt_tokens: int, now: float) -> None:
        """A sequence goes into the engine."""
        if not self._running:
            self._moved = now
        self._waiting[key] = prompt_tokens
        self._running += 1

    def moves(self, key: object, now: float) -> None:
        """A sequence got something."""
        self._moved = now
        self._waiting.pop(key, None)

    def ends(self, key: object, now: float) -> None:
        """A sequence has left the engine."""
        self._moved = now
        self._waiting.pop(key, None)
        self._running -= 1

    def limit_s(self) -> float:
        """The longest silence that still can be work: all prompts that wait, read one after another, and one step."""
        prompts = sum(self._waiting.values()) / max(self._pace.prefill_tokens_per_s, 1e-3)
        step = self._pace.fixed_s + self._pace.per_sequence_s * self._running
        return LEAST_S + FACTOR * (prompts + step)

    def stalled_s(self, now: float) -> float:
        """How long the engine has been silent, when that is too long; else 0."""
        silent = now - self._moved
        return silent if self._running and silent > self.limit_s() else 0.0
