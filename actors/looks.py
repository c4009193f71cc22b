"""Runs probes side by side, each in a thread of its own under a deadline; one that hangs keeps its thread and is not
started again before it returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

PROBE_BROKEN = "probe.broken"

T = TypeVar("T")


@dataclass(slots=True)
class Outcome(Generic[T]):
    """What became of a call: its answer, what it raised, or neither when it still runs.

    Attributes:
        seconds: how long it took; until now when it still runs.
    """

    answer: T | None = None
    raised: str = ""
    seconds: float = 0.0
    hangs: bool = False


class Looks(Generic[T]):
    """The running calls by probe name. `purpose` names their threads."""

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._running: dict[str, _Look[T]] = {}

    def all(self, calls: Mapping[str, Callable[[], T]], deadline_s: float) -> dict[str, Outcome[T]]:
        """Every call's outcome, after at most `deadline_s`."""
        deadline = time.monotonic() + deadline_s
        for name, call in calls.items():
            look = self._running.get(name)
            if look is None or not look.hangs():
                self._running[name] = _Look(call, f"{self._purpose}-{name}")
        return {name: self._running[name].outcome(deadline) for name in calls}


@dataclass(slots=True)
class _Look(Generic[T]):
    call: Callable[[], T]
    name: str
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    answer: T | None = None
    raised: str = ""
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True, name=self.name)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.answer = self.call()
        except (Exception, SystemExit) as error:  # whatever a plugin raises
            log.warning(PROBE_BROKEN, probe=self.name, exc_info=True)
            self.raised = f"raised {type(error).__name__}: {error}"[:500]
        self.ended = time.monotonic()

    def hangs(self) -> bool:
        return self.thread.is_alive()

    def outcome(self, deadline: float) -> Outcome[T]:
        self.thread.join(max(0.0, deadline - time.monotonic()))
        seconds = (self.ended or time.monotonic()) - self.began
        if self.ended is None:
            return Outcome(seconds=seconds, hangs=True)
        return Outcome(answer=self.answer, raised=self.raised, seconds=seconds)
