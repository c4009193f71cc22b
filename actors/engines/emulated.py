"""The emulated engine: words of the real tokenizer, chosen by arithmetic and paced by the cost model of a device class.

Decides which ids a prompt yields and when. It must not know text: `word_ids` are ids that read as words.

A text under way is recognised by its last two ids alone: each emitted word stands in a table with one row per number of
words still to come, and its column repeats a check figure of the word before it. So the id after `prompt + emitted[:k]` is
the one after `prompt + emitted` cut at k, for every k, and every text ends by itself. A raw prompt that happens to end in
two such words is taken for a text under way; that is deterministic, too.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import structlog

from ..engine import (
    Capabilities,
    Chunk,
    EngineConfig,
    EngineRequest,
    EngineStats,
    FinishReason,
    Pace,
    Sampling,
)
from ..errors import EngineError, LoadFailed
from ..worker.stepper import Row

log = structlog.get_logger()

ENGINE_FAILED = "engine.failed"

SHORTEST, LONGEST = 20, 200
"""Words in a text that ends by itself."""
CHECKS = 5
LOAD_STEPS = 20
STEPS_AT_ONCE = 16
"""Most steps in one turn of the event loop when they are late or unpaced."""

_UNPACED = Pace(fixed_s=0.0, per_sequence_s=0.0, prefill_tokens_per_s=float("inf"), load_s=0.0)


class Clock(Protocol):
    """Time, so that tests can run without waiting."""

    def now(self) -> float:
        """Seconds, from any origin."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Returns at that time, and lets others run at least once."""
        ...


class LoopClock:
    """The event loop's own time."""

    def now(self) -> float:
        """See `Clock`."""
        return asyncio.get_running_loop().time()

    async def sleep_until(self, when: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(max(0.0, when - self.now()))


class Words:
    """The table of words: row = words still to come, column = check figure and variety."""

    def __init__(self, config: EngineConfig) -> None:
        eos = set(config.eos_ids)
        words = config.word_ids or tuple(n for n in range(config.facts.vocab) if n not in eos)
        if not words:
            raise LoadFailed("the emulated engine has no words", hint="use another tokenizer")
        self._rows = min(LONGEST, len(words))
        self._columns = len(words) // self._rows
        self._checks = min(CHECKS, self._columns)
        self._words = words[: self._rows * self._columns]
        self._places = {word: divmod(n, self._columns) for n, word in enumerate(self._words)}

    def to_come(self, before: int, last: int) -> int | None:
        """How many words follow `last`; None when it is no word of a text under way."""
        row, column = self._places.get(last, (0, -1))
        if column < 0 or column % self._checks != self._check(before, row):
            return None
        return row

    def length(self, digest: int) -> int:
        """Words in a new text."""
        shortest = min(SHORTEST, self._rows)
        return shortest + digest % (self._rows - shortest + 1)

    def word(self, before: int, to_come: int, digest: int) -> int:
        """The word after which `to_come` more follow."""
        column = self._check(before, to_come)
        column += self._checks * (digest // self._rows % (self._columns // self._checks))
        return self._words[to_come * self._columns + column]

    def _check(self, before: int, row: int) -> int:
        return (before * 31 + row * 7) % self._checks


class _Text:
    """One sequence. `digest` is a rolling figure of all ids so far."""

    def __init__(self, words: Words, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        self.prompt_tokens = len(prompt_ids)
        self.left = sampling.max_tokens
        self.started = False
        self._words = words
        self._ignore_eos = sampling.ignore_eos
        self._digest = zlib.crc32(b"".join(n.to_bytes(4, "little") for n in prompt_ids))
        self._before, self._last = (-1, *prompt_ids)[-2:]

    def next(self) -> tuple[tuple[int, ...], FinishReason | None]:
        """The next id, and whether it was the last; no id when the text has ended by itself."""
        to_come = self._words.to_come(self._before, self._last)
        if to_come == 0 and not self._ignore_eos:
            return (), "stop"
        after = (to_come or self._words.length(self._digest)) - 1
        word = self._words.word(self._last, after, self._digest)
        self._digest = zlib.crc32(word.to_bytes(4, "little"), self._digest)
        self._before, self._last = self._last, word
        self.left -= 1
        return (word,), "length" if self.left == 0 else None


@dataclass(frozen=True, slots=True)
class Step:
    """What one step takes and gives."""

    duration_s: float
    rows: list[Row]


class Batch:
    """Sequences stepped together, without any clock: a prefill, else one word for each.

    Raises:
        LoadFailed: the configuration has no words.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._words = Words(config)
        self._pace = config.pace or _UNPACED
        self._window = config.window
        self._room = config.max_sequences
        self._texts: dict[int, _Text] = {}
        self._waiting: deque[int] = deque()
        self._running: dict[int, _Text] = {}

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        """Queues a sequence; raises `EngineError` when it leaves no room for a word."""
        room = self._window - len(prompt_ids)
        if room < 1 or not prompt_ids or sampling.max_tokens < 1:
            raise EngineError(
                f"{len(prompt_ids)} prompt tokens and {sampling.max_tokens} more do not fit"
                f" a window of {self._window}"
            )
        text = _Text(self._words, prompt_ids, sampling)
        text.left = min(text.left, room)
        self._texts[sequence] = text
        self._waiting.append(sequence)

    def abort(self, sequence: int) -> None:
        """Forgets a sequence."""
        if self._texts.pop(sequence, None) and self._running.pop(sequence, None) is None:
            self._waiting.remove(sequence)

    def busy(self) -> bool:
        """Whether there is anything to step for."""
        return bool(self._texts)

    def step(self) -> Step:
        """One step."""
        if self._waiting and len(self._running) < self._room:
            sequence = self._waiting.popleft()
            text = self._running[sequence] = self._texts[sequence]
            duration_s = text.prompt_tokens / self._pace.prefill_tokens_per_s
            return Step(duration_s, [self._row(sequence, text)])
        duration_s = self._pace.fixed_s + self._pace.per_sequence_s * len(self._running)
        return Step(duration_s, [self._row(n, text) for n, text in list(self._running.items())])

    def _row(self, sequence: int, text: _Text) -> Row:
        ids, finish = text.next()
        if finish is not None:
            del self._texts[sequence], self._running[sequence]
        return Row(sequence, ids, finish)

    def stats(self) -> EngineStats:
        """The load now; KV as if every sequence reserved its whole window."""
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_used_ratio=len(self._running) / self._room,
        )


class EmulatedEngine:
    """See `Engine`. Paced in the replica's own event loop, on absolute deadlines, so that the pace never drifts.

    It ignores temperature, top_p and seed.
    """

    name: ClassVar[str] = "emulated"
    requires: ClassVar[tuple[str, ...]] = ()

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or LoopClock()
        self._batch: Batch | None = None
        self._boxes: dict[int, asyncio.Queue[Chunk]] = {}
        self._requests: dict[int, str] = {}
        self._last = 0
        self._capabilities = Capabilities()
        self._runner: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """See `Engine`."""
        return self._capabilities

    async def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Engine`. Takes the time that the cost model predicts."""
        batch = Batch(config)
        load_s = (config.pace or _UNPACED).load_s
        start = self._clock.now()
        for done in range(1, LOAD_STEPS + 1):
            await self._clock.sleep_until(start + load_s * done / LOAD_STEPS)
            progress(done / LOAD_STEPS)
        self._capabilities = Capabilities(
            window=config.window,
            sequences=config.max_sequences,
            seed=True,
            exact=True,
            continuation="exact",
        )
        self._batch = batch

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        """See `Engine`."""
        batch = self._batch
        if batch is None:
            raise EngineError("the emulated engine is not loaded")
        self._last += 1
        sequence = self._last
        batch.add(sequence, request.prompt_ids, request.sampling)
        box = self._boxes[sequence] = asyncio.Queue()
        self._requests[sequence] = request.id
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run(batch))
            self._runner.add_done_callback(self._ran)
        try:
            while True:
                chunk = await box.get()
                yield chunk
                if chunk.finish is not None:
                    return
        finally:
            del self._boxes[sequence], self._requests[sequence]
            batch.abort(sequence)

    async def _run(self, batch: Batch) -> None:
        """Steps while there is work. Rows are given at the end of their step, those of late steps together."""
        when = self._clock.now()
        late: list[Row] = []
        steps = 0
        while batch.busy():
            step = batch.step()
            when += step.duration_s
            if when > self._clock.now() or steps == STEPS_AT_ONCE:
                self._give(late)
                late, steps = list[Row](), 0
                await self._clock.sleep_until(when)
            late += step.rows
            steps += 1
        self._give(late)

    def _ran(self, runner: asyncio.Task[None]) -> None:
        """No sequence waits for ever on a runner that failed, or that somebody cancelled."""
        error = None if runner.cancelled() else runner.exception()
        if error is not None:
            log.error(ENGINE_FAILED, engine=self.name, exc_info=error)
        if runner.cancelled() or error is not None:
            self._batch = None
            for box in self._boxes.values():
                box.put_nowait(Chunk((), "abort"))

    def _give(self, rows: list[Row]) -> None:
        ids: dict[int, tuple[int, ...]] = {}
        finishes: dict[int, FinishReason | None] = {}
        for row in rows:
            ids[row.sequence] = ids.get(row.sequence, ()) + row.ids
            finishes[row.sequence] = row.finish
        for sequence, given in ids.items():
            box = self._boxes.get(sequence)
            if box is not None:
                box.put_nowait(Chunk(given, finishes[sequence]))

    async def abort(self, request: str) -> None:
        """See `Engine`."""
        for sequence in [n for n, asked in self._requests.items() if asked == request]:
            if self._batch is not None:
                self._batch.abort(sequence)
            self._boxes[sequence].put_nowait(Chunk((), "abort"))

    async def stats(self) -> EngineStats:
        """See `Engine`."""
        return self._batch.stats() if self._batch else EngineStats()

    def health(self) -> str:
        """See `Engine`."""
        return "" if self._batch is not None else "the emulated engine is not loaded"

    def processes(self) -> tuple[int, ...]:
        """See `Engine`. It runs in the process of whoever loaded it."""
        return ()

    async def close(self) -> None:
        """See `Engine`. Running sequences end as aborted."""
        runner, self._runner, self._batch = self._runner, None, None
        if runner is not None:
            runner.cancel()
            await asyncio.wait([runner])
