"""What a native engine is to the worker process that hosts it: sequences in, one batch step at a time, ids out.

Everything happens on one thread of that process, so a step may hold the GIL for as long as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..engine import Capabilities, EngineConfig, EngineStats, FinishReason, Sampling


@dataclass(frozen=True, slots=True)
class Row:
    """What one step gave one sequence.

    Attributes:
        error: why this sequence alone failed; it ends then.
    """

    sequence: int
    ids: tuple[int, ...]
    finish: FinishReason | None = None
    error: str = ""


class Stepper(Protocol):
    """A native engine. A class in `actors/engines/` with these members is served through a worker process.

    An exception out of `step` ends the process, and with it every sequence; `add` may raise `EngineError` for one.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]
    """Import packages without which it cannot start."""
    environment: ClassVar[str]
    """Name of the environment that it lives in (actors.environments); empty = our own. Its module imports nothing heavy."""

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """Loads the model; raises `LoadFailed` or whatever the native library raises."""
        ...

    def capabilities(self) -> Capabilities:
        """What it can do, once it is loaded."""
        ...

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        """Queues a sequence under a number that is free."""
        ...

    def abort(self, sequence: int) -> None:
        """Forgets a sequence; no row follows. Unknown numbers are fine."""
        ...

    def busy(self) -> bool:
        """Whether there is anything to step for."""
        ...

    def step(self) -> list[Row]:
        """One step of the whole batch."""
        ...

    def stats(self) -> EngineStats:
        """The load after the last step."""
        ...
