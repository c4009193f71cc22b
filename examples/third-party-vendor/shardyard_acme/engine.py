"""The engine of Acme cards: a `Stepper`, which Shardyard hosts in a worker process of its own.

There is no such card, so the "model" is a table without sense: the id after two others is a function of these two. It stands for
a native library with sequences, batches, a KV cache that is full at some time, and an end of text. Text that goes on from its ids
goes on exactly, because nothing else enters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from actors.engine import Capabilities, EngineConfig, EngineStats, Sampling
from actors.errors import EngineError, LoadFailed
from actors.worker.stepper import Row
from placement.engine_facts import EngineFacts

STEP_S = 0.002
"""What a step of the imaginary card takes, however many sequences are in it."""


@dataclass(frozen=True, slots=True)
class _Sequence:
    last: tuple[int, int]
    left: int
    ignore_eos: bool


class AcmeStepper:
    """See `actors.worker.stepper.Stepper`. `facts` tell the planner what it can run: the catalog does not know this engine."""

    name: ClassVar[str] = "acme"
    requires: ClassVar[tuple[str, ...]] = ()
    environment: ClassVar[str] = ""
    facts: ClassVar[EngineFacts] = EngineFacts(
        name="acme",
        drives=frozenset({"acme/npu"}),
        dtypes=("fp16", "int8"),
        schemes=frozenset({"package", "file", "hf"}),
        offers=frozenset({"ids"}),
        overhead_bytes=2**28,
        start_s=1.0,
        exact=True,
    )

    def __init__(self) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._config: EngineConfig | None = None

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """Loads nothing, but insists on a model as a real engine would."""
        if not config.handles:
            raise LoadFailed(
                "no Acme card is given to this replica", hint="see `shardyard devices`"
            )
        if config.model_path and not Path(config.model_path).exists():
            raise LoadFailed(f"{config.model_path} does not exist", hint="check the model's source")
        self._config = config
        progress(1.0)

    def capabilities(self) -> Capabilities:
        """What routers may ask of it."""
        config = self._loaded()
        return Capabilities(
            window=config.window,
            sequences=config.max_sequences,
            exact=True,
            continuation="exact",
        )

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        """Queues a sequence."""
        room = self._loaded().window - len(prompt_ids)
        if not prompt_ids or room < 1:
            raise EngineError(f"{len(prompt_ids)} prompt tokens leave no room in the window")
        last = (prompt_ids[-2] if len(prompt_ids) > 1 else 0, prompt_ids[-1])
        self._sequences[sequence] = _Sequence(
            last, min(sampling.max_tokens, room), sampling.ignore_eos
        )

    def abort(self, sequence: int) -> None:
        """Forgets a sequence."""
        self._sequences.pop(sequence, None)

    def busy(self) -> bool:
        """Whether there is work."""
        return bool(self._sequences)

    def step(self) -> list[Row]:
        """One id for as many sequences as the card takes at once, the oldest first."""
        time.sleep(STEP_S)
        running = list(self._sequences)[: self._loaded().max_sequences]
        return [self._row(number) for number in running]

    def stats(self) -> EngineStats:
        """The load now."""
        most = self._loaded().max_sequences
        running = min(len(self._sequences), most)
        waiting = len(self._sequences) - running
        return EngineStats(running=running, waiting=waiting, kv_used_ratio=running / most)

    def _row(self, number: int) -> Row:
        config, sequence = self._loaded(), self._sequences[number]
        before, last = sequence.last
        figure = before * 31 + last * 17 + 7
        if figure % 23 == 0 and not sequence.ignore_eos:
            del self._sequences[number]
            return Row(number, (), "stop")
        following = _plain(figure % config.facts.vocab, config)
        left = sequence.left - 1
        if left:
            self._sequences[number] = replace(sequence, last=(last, following), left=left)
        else:
            del self._sequences[number]
        return Row(number, (following,), None if left else "length")

    def _loaded(self) -> EngineConfig:
        assert self._config is not None
        return self._config


def _plain(token: int, config: EngineConfig) -> int:
    """An id that does not end a text."""
    while token in config.eos_ids:
        token = (token + 1) % config.facts.vocab
    return token
