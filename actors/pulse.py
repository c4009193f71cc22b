"""Whether an engine that has work still moves: it has stalled when nothing came of it for much longer than it should take.

Decides from the cost model how long a silence may be. It must not know why an engine is silent, nor what follows.
"""

from __future__ import annotations

from .engine import Pace

LEAST_S = 15.0
"""Figures of a cost model are off by a factor on a machine that is busy with something else."""

FACTOR = 10.0

ELSEWHERE_LEAST_S = 180.0
"""Of an endpoint that is somebody else's: it may queue what it is asked, and its engine fails a hanging request before that."""


class Pulse:
    """What one engine has to do, and for how long nothing came of it. Times are seconds of one clock.

    Sequences that are given up prove nothing: an engine that hangs is found although no client waits long enough.

    Args:
        least_s: a shorter silence never counts.
    """

    def __init__(self, pace: Pace, *, least_s: float = LEAST_S) -> None:
        self._pace = pace
        self._least_s = least_s
        self._waiting: dict[object, int] = {}
        self._given_up = 0
        self._running = 0
        self._since = 0.0
        self._silent_s = 0.0

    @property
    def working(self) -> int:
        """Sequences in the engine."""
        return self._running

    def begins(self, key: object, prompt_tokens: int, now: float) -> None:
        """A sequence goes into the engine."""
        if not self._running:
            self._since = now
        self._waiting[key] = prompt_tokens
        self._running += 1

    def moves(self, key: object, now: float) -> None:
        """A sequence got something."""
        self._since = now
        self._silent_s = 0.0
        self._given_up = 0
        self._waiting.pop(key, None)

    def ends(self, key: object, now: float) -> None:
        """A sequence has left the engine, with or without an end."""
        self._given_up += self._waiting.pop(key, 0)
        self._running -= 1
        if not self._running:
            self._silent_s += now - self._since

    def limit_s(self) -> float:
        """The longest silence that still can be work: all prompts that went in meanwhile, read one after another, and one step."""
        tokens = sum(self._waiting.values()) + self._given_up
        prompts = tokens / max(self._pace.prefill_tokens_per_s, 1e-3)
        step = self._pace.fixed_s + self._pace.per_sequence_s * self._running
        return self._least_s + FACTOR * (prompts + step)

    def stalled_s(self, now: float) -> float:
        """How long the engine has been silent at work, when that is too long; else 0."""
        silent = self._silent_s + now - self._since
        return silent if self._running and silent > self.limit_s() else 0.0
