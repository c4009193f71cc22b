"""Continuous batching over the slots of a KV cache: sequences join and leave between any two steps.

Decides who reads its prompt when, which slot it gets, and when a sequence ends. It must not know where the cache lies.

A step decodes one token for every running sequence, then reads on in at most `BATCHED_TOKENS` tokens of prompts, so a long
prompt never holds up the others for more than that. The parts of a prompt begin at multiples of that number whatever else
is going on: a text must not depend on its company.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Rows
from typing import Any, Protocol

import numpy as np

from .engine import EngineStats, FinishReason, Sampling
from .onnx.kv import KvCache
from .sampling import NOT_FINITE, Chooser, next_ids
from .worker.stepper import Row

BATCHED_TOKENS = 256
"""Most tokens of prompts that are read in one step."""


class Decoder(Protocol):
    """What runs the rows; see `onnx_runner.Runner.run`."""

    def run(
        self, low: int, ids: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Logits [rows, vocabulary]."""
        ...


class _Sequence:
    """One sequence. The last of its `ids` is not in the cache once it runs."""

    __slots__ = ("chooser", "ends", "filled", "ids", "left", "number", "reserved", "slot")

    def __init__(
        self, number: int, ids: list[int], left: int, chooser: Chooser, ends: frozenset[int]
    ) -> None:
        self.number = number
        self.ids = ids
        self.left = left
        self.chooser = chooser
        self.ends = ends
        self.reserved = len(ids) + left
        self.filled = 0
        self.slot = -1


class Batch:
    """The sequences of one engine.

    Args:
        decoder: runs the rows.
        cache: of the same slots.
        slots: most sequences at once.
        window: longest sequence.
        budget_tokens: tokens that all running sequences may come to; one sequence alone always may run.
        vocab: of the logits.
        eos_ids: ids that end a text.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: KvCache,
        *,
        slots: int,
        window: int,
        budget_tokens: int,
        vocab: int,
        eos_ids: Rows[int],
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._window = window
        self._budget_tokens = max(1, budget_tokens)
        self._vocab = vocab
        self._eos_ids = frozenset(eos_ids)
        self._waiting: deque[_Sequence] = deque()
        self._reading: _Sequence | None = None
        self._slots: list[_Sequence | None] = [None] * slots

    def add(self, number: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        """Queues a sequence that leaves room for a token."""
        left = min(sampling.max_tokens, self._window - len(prompt_ids))
        chooser = Chooser(sampling, self._vocab, prompt_ids, self._eos_ids)
        ends = frozenset[int]() if sampling.ignore_eos else self._eos_ids
        self._waiting.append(_Sequence(number, list(prompt_ids), left, chooser, ends))

    def abort(self, number: int) -> None:
        """Forgets a sequence and frees its slot at once."""
        for sequence in self._waiting:
            if sequence.number == number:
                self._waiting.remove(sequence)
                return
        for sequence in self._slots:
            if sequence is not None and sequence.number == number:
                self._leave(sequence)
                return

    def busy(self) -> bool:
        """Whether there is anything to step for."""
        return bool(self._waiting) or any(self._slots)

    def step(self) -> list[Row]:
        """One step."""
        return [*self._decode(), *self._read()]

    def stats(self) -> EngineStats:
        """The load; of the cache what is reserved counts."""
        held = [s for s in self._slots if s is not None]
        return EngineStats(
            running=len(held),
            waiting=len(self._waiting),
            kv_used_ratio=min(1.0, sum(s.reserved for s in held) / self._budget_tokens),
        )

    def _decode(self) -> list[Row]:
        """The next token of everyone who has read its prompt, in one run.

        Between the rows there may be holes, and the one that still reads. They run along: what they write to the cache is
        written over later.
        """
        running = [s for s in self._slots if s is not None and s is not self._reading]
        if not running:
            return []
        rows = max(s.slot for s in running) + 1
        ids = np.zeros((rows, 1), np.int64)
        lengths = np.ones(rows, np.int64)
        if self._reading is not None and self._reading.slot < rows:
            lengths[self._reading.slot] = self._reading.filled + 1
        for sequence in running:
            ids[sequence.slot, 0] = sequence.ids[-1]
            sequence.filled = lengths[sequence.slot] = len(sequence.ids)
        logits = self._decoder.run(0, ids, lengths)
        if len(running) < rows:
            logits = logits[[s.slot for s in running]]
        return self._chosen(running, logits)

    def _read(self) -> list[Row]:
        """Parts of prompts, one sequence after the other."""
        rows: list[Row] = []
        room = BATCHED_TOKENS
        while sequence := self._reading or self._join():
            part = sequence.ids[sequence.filled : sequence.filled + BATCHED_TOKENS]
            if len(part) > room:
                break
            room -= len(part)
            sequence.filled += len(part)
            ids, lengths = np.array([part], np.int64), np.array([sequence.filled], np.int64)
            logits = self._decoder.run(sequence.slot, ids, lengths)
            if sequence.filled == len(sequence.ids):
                self._reading = None
                rows += self._chosen([sequence], logits)
        return rows

    def _join(self) -> _Sequence | None:
        """Gives the first who waits a slot, when there are one and room in the cache."""
        held = sum(s.reserved for s in self._slots if s is not None)
        if not self._waiting or None not in self._slots:
            return None
        if held and held + self._waiting[0].reserved > self._budget_tokens:
            return None
        sequence = self._reading = self._waiting.popleft()
        sequence.slot = self._slots.index(None)
        self._slots[sequence.slot] = sequence
        return sequence

    def _chosen(self, sequences: Rows[_Sequence], logits: np.ndarray[Any, Any]) -> list[Row]:
        positions = [len(s.ids) for s in sequences]
        ids = next_ids(logits, [s.chooser for s in sequences], positions)
        rows = [self._row(s, token) for s, token in zip(sequences, ids, strict=True)]
        for sequence, row in zip(sequences, rows, strict=True):
            if row.finish is not None or row.error:
                self._leave(sequence)
        return rows

    @staticmethod
    def _row(sequence: _Sequence, token: int) -> Row:
        if token == NOT_FINITE:
            return Row(sequence.number, (), error="the model gave logits that are not finite")
        if token in sequence.ends:
            return Row(sequence.number, (), "stop")
        sequence.ids.append(token)
        sequence.chooser.seen(token)
        sequence.left -= 1
        finish: FinishReason | None = "length" if sequence.left <= 0 else None
        return Row(sequence.number, (token,), finish)

    def _leave(self, sequence: _Sequence) -> None:
        """Frees a slot. Where contents can move, the runners stay together: the last one takes it, and who reads comes next."""
        if sequence is self._reading:
            self._reading = None
        free = sequence.slot
        self._slots[free] = None
        self._cache.freed(free, sequence.filled)
        if not self._cache.movable:
            return
        last = max(
            (s for s in self._slots if s and s is not self._reading), key=_slot, default=None
        )
        for mover in (last, self._reading):
            if mover is not None and mover.slot > free:
                free = self._move(mover, free)

    def _move(self, sequence: _Sequence, target: int) -> int:
        """Moves a sequence; returns the slot that it left."""
        source = sequence.slot
        self._cache.move(source, target, sequence.filled)
        self._slots[source], self._slots[target] = None, sequence
        sequence.slot = target
        return source


def _slot(sequence: _Sequence) -> int:
    return sequence.slot
