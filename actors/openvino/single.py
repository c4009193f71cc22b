"""OpenVINO GenAI's pipeline for one sequence after another, as Intel's NPUs need it: no paging and static shapes there.

Decides the order of sequences and how ids leave a call that blocks until the text is complete: it runs in one thread, and
a streamer hands over each id. Its mechanism was tried on a processor; no NPU was seen by us. It must not know requests or
text.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

from ..engine import Capabilities, EngineConfig, EngineStats, FinishReason, Sampling
from ..errors import LoadFailed
from ..worker.stepper import Row
from .device import single_properties
from .request import FINISHES, asked_tokens, check_model, generation

STEP_S = 0.05
"""Longest that one step waits for an id, so that aborts are heard while a prompt is read."""

END_S = 1.5
"""Longest that the process waits for its thread when it ends."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What the thread has to say: ids, or how it ended."""

    ids: tuple[int, ...] = ()
    ended: bool = False
    finish: FinishReason | None = None
    error: str = ""


@dataclass(slots=True, kw_only=True)
class _Run:
    """One sequence. The stepping thread alone clears `wanted`; the playing thread alone puts."""

    sequence: int
    prompt: Any
    generation: Any
    stops: frozenset[int]
    tokens: int
    wanted: bool = True
    told: SimpleQueue[_Told] = field(default_factory=SimpleQueue)

    def hear(self, ids: list[int]) -> bool:
        """Takes ids from the library; whether there shall be more."""
        kept = tuple(n for n in ids if n not in self.stops)
        if kept:
            self.told.put(_Told(kept))
        return self.wanted


class SingleStepper:
    """See `Stepper`. One sequence runs, the others wait in order; an abort takes effect with the next id."""

    name: ClassVar[str] = "openvino"
    requires: ClassVar[tuple[str, ...]] = ("openvino_genai",)
    environment: ClassVar[str] = ""

    def __init__(self, device: str = "NPU") -> None:
        self._device = device
        self._waiting: deque[_Run] = deque()
        self._playing: _Run | None = None
        self._jobs: SimpleQueue[_Run | None] = SimpleQueue()
        self._library: Any = None
        self._pipeline: Any = None
        self._streamer: Callable[[_Run], Any] = lambda run: run
        self._tensor: Callable[[tuple[int, ...]], Any] = lambda ids: ids
        self._config: EngineConfig | None = None

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Stepper`. An NPU's graph is compiled here, which can take minutes."""
        check_model(config)
        import numpy as np
        import openvino
        import openvino_genai

        progress(0.1)
        self._library, self._config = openvino_genai, config
        self._tensor = lambda ids: openvino.Tensor(np.array([ids], dtype=np.int64))
        self._streamer = _streamer(openvino_genai)
        try:
            self._pipeline = openvino_genai.LLMPipeline(
                config.model_path, self._device, **single_properties(config, self._device)
            )
        except RuntimeError as error:
            raise LoadFailed(_reason(error), hint=_HINT if self._device == "NPU" else "") from None
        thread = threading.Thread(target=self._play, name="openvino", daemon=True)
        thread.start()
        # A thread inside the library while the interpreter goes away would abort the process.
        atexit.register(self._end, thread)
        progress(1.0)

    def capabilities(self) -> Capabilities:
        """See `Stepper`. Sampling, penalties and grammars are computed on the processor, whatever the device."""
        assert self._config is not None
        return Capabilities(
            window=self._config.window,
            sequences=1,
            length_buckets=(self._config.window,),
            seed=True,
            penalties=True,
            json_schema=True,
            continuation="coherent",
        )

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        """See `Stepper`."""
        assert self._config is not None
        most = asked_tokens(self._config, prompt_ids, sampling)
        run = _Run(
            sequence=sequence,
            prompt=self._tensor(prompt_ids),
            generation=generation(self._library, self._config, sampling, most),
            stops=frozenset() if sampling.ignore_eos else frozenset(self._config.eos_ids),
            tokens=len(prompt_ids),
        )
        self._waiting.append(run)

    def abort(self, sequence: int) -> None:
        """See `Stepper`."""
        if self._playing is not None and self._playing.sequence == sequence:
            self._playing.wanted = False
        self._waiting = deque(run for run in self._waiting if run.sequence != sequence)

    def busy(self) -> bool:
        """See `Stepper`. A run that nobody wants any more ends by itself."""
        return bool(self._waiting) or (self._playing is not None and self._playing.wanted)

    def step(self) -> list[Row]:
        """See `Stepper`. What the running sequence got since the last step, waiting a moment for the first of it."""
        if self._playing is None:
            self._playing = self._waiting.popleft()
            self._jobs.put(self._playing)
        run = self._playing
        told = _taken(run.told)
        ids = tuple(n for part in told for n in part.ids)
        run.tokens += len(ids)
        last = told[-1] if told else _Told()
        if last.ended:
            self._playing = None
        if not run.wanted or not (ids or last.ended):
            return []
        if last.error:
            return [Row(run.sequence, (), error=last.error)]
        return [Row(run.sequence, ids, last.finish)]

    def stats(self) -> EngineStats:
        """See `Stepper`."""
        assert self._config is not None
        run = self._playing if self._playing is not None and self._playing.wanted else None
        return EngineStats(
            running=int(run is not None),
            waiting=len(self._waiting),
            kv_used_ratio=run.tokens / self._config.window if run else 0.0,
        )

    def _play(self) -> None:
        """The thread: one run after another, until there are none to come."""
        while (run := self._jobs.get()) is not None:
            try:
                run.told.put(self._ended(run))
            except Exception as error:  # noqa: BLE001 - whatever it is, this sequence ends with it
                run.told.put(_Told(ended=True, error=_reason(error)))

    def _ended(self, run: _Run) -> _Told:
        if not run.wanted:
            return _Told(ended=True)
        result = self._pipeline.generate(run.prompt, run.generation, self._streamer(run))
        finish = FINISHES[result.finish_reasons[0].name]
        error = "" if finish or not run.wanted else "the engine gave the sequence up"
        return _Told(ended=True, finish=finish, error=error)

    def _end(self, thread: threading.Thread) -> None:
        if self._playing is not None:
            self._playing.wanted = False
        self._jobs.put(None)
        thread.join(END_S)


_HINT = (
    "an NPU needs a model in OpenVINO's own form with symmetric int4 weights; "
    "see docs/guide/engine-openvino.md"
)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"openvino: {lines[-1][:500]}"


def _taken(told: SimpleQueue[_Told]) -> list[_Told]:
    """All that is there, after waiting a bounded moment for the first."""
    found: list[_Told] = []
    try:
        found.append(told.get(timeout=STEP_S))
        while True:
            found.append(told.get_nowait())
    except Empty:
        return found


def _streamer(library: Any) -> Callable[[_Run], Any]:
    """Makes streamers; their class can only be made once the library is imported."""

    class Streamer(library.StreamerBase):
        """Hands ids to the stepping thread as they come."""

        def __init__(self, run: _Run) -> None:
            super().__init__()
            self._run = run

        def write(self, token: int | list[int]) -> Any:
            """Called by the library with one id or several."""
            more = self._run.hear(token if isinstance(token, list) else [token])
            states = library.StreamingStatus
            return states.RUNNING if more else states.CANCEL

        def end(self) -> None:
            """Nothing is held back."""

    return Streamer
