"""llama.cpp's own server inside a worker process, through the package xllamacpp: GGUF on CPUs and, with other builds of the
package, on consumer GPUs.

Decides how our configuration and sampling are said in its terms, and keeps strangers out of the listener that it cannot do
without. It steps by itself on its own threads; a step here takes what they gave since the last. It must not know requests
or text.
"""

from __future__ import annotations

import atexit
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..engine import Capabilities, EngineConfig, EngineStats, FinishReason, Sampling
from ..llamacpp_settings import (
    MODULE,
    completion,
    is_exact,
    pieces_of,
    refuse_what_it_cannot,
    started,
)
from ..lost_ids import Pieces
from ..worker.room import room_for
from ..worker.stepper import Row

STEP_WAIT_S = 0.02
"""Longest that a step waits for ids while none come: commands of the parent wait as long."""
END_WAIT_S = 1.0
_JSON_BEGINS = re.compile(
    r"\s*(?:$|[{\[\"]|(?:-?\d*[\d.eE+-]*|t(?:r(?:ue?)?)?|f(?:a(?:l(?:se?)?)?)?|n(?:u(?:ll?)?)?)\s*$)"
)
_FINISHES: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}


@dataclass(slots=True, eq=False)
class _Job:
    """One sequence, from its queue to its last ids.

    Attributes:
        stops: ids that end it.
        told: ids that it generated so far.
        held: ids without text, of which the last may turn out to be llama.cpp's own end of the text.
        written: text so far, where it must be JSON of a schema; else None.
        left: the parent wants no more of it; obeyed at the next callback.
    """

    sequence: int
    body: dict[str, Any]
    stops: frozenset[int]
    told: int = 0
    held: tuple[int, ...] = ()
    written: str | None = None
    started: bool = False
    left: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class _Event:
    job: _Job
    row: Row | None = None
    done: bool = False


@dataclass(slots=True)
class _Work:
    """What passes between the stepping thread and the threads that wait for llama.cpp."""

    todo: queue.SimpleQueue[_Job] = field(default_factory=queue.SimpleQueue)
    events: queue.SimpleQueue[_Event] = field(default_factory=queue.SimpleQueue)


class LlamaCppStepper:
    """See `Stepper`."""

    name: ClassVar[str] = "llamacpp"
    requires: ClassVar[tuple[str, ...]] = (MODULE,)
    environment: ClassVar[str] = ""

    def __init__(self) -> None:
        self._server: Any = None
        self._config: EngineConfig | None = None
        self._pieces = Pieces(())
        self._jobs: dict[int, _Job] = {}
        self._unfinished: set[_Job] = set()
        self._work = _Work()

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Stepper`. The library reports no progress of its own, so only its stages are told."""
        refuse_what_it_cannot(config)
        self._pieces = pieces_of(config.model_path)
        progress(0.1)
        self._config, self._server = config, started(config)
        atexit.register(self._end)
        for number in range(config.max_sequences):
            threading.Thread(target=self._serve, daemon=True, name=f"slot-{number}").start()
        progress(1.0)

    def capabilities(self) -> Capabilities:
        """See `Stepper`."""
        assert self._config is not None
        exact = is_exact(self._config)
        return Capabilities(
            window=self._config.window,
            sequences=self._config.max_sequences,
            seed=True,
            penalties=True,
            json_schema=True,
            prefix_cache=self._config.tuning.prefix_cache,
            exact=exact,
            numerics="fp32" if exact else "",
            continuation="exact" if exact else "coherent",
        )

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        """See `Stepper`."""
        assert self._config is not None
        config = self._config
        most = room_for(prompt_ids, sampling, window=config.window, vocab=config.facts.vocab)
        body = completion(prompt_ids, sampling, most)
        body["cache_prompt"] = self._config.tuning.prefix_cache
        stops = frozenset(() if sampling.ignore_eos else self._config.eos_ids)
        job = self._jobs[sequence] = _Job(sequence, body, stops)
        job.written = "" if sampling.json_schema else None
        self._unfinished.add(job)
        self._work.todo.put(job)

    def abort(self, sequence: int) -> None:
        """See `Stepper`. llama.cpp hears of it with its next token, or after the part of the prompt that it reads."""
        job = self._jobs.pop(sequence, None)
        if job is not None:
            job.left = True

    def busy(self) -> bool:
        """See `Stepper`."""
        return bool(self._unfinished)

    def step(self) -> list[Row]:
        """See `Stepper`. Waits for the first ids, briefly, and takes all that are there."""
        rows: list[Row] = []
        try:
            self._take(self._work.events.get(timeout=STEP_WAIT_S), rows)
            while True:
                self._take(self._work.events.get_nowait(), rows)
        except queue.Empty:
            return _joined(rows)

    def _take(self, event: _Event, rows: list[Row]) -> None:
        job = event.job
        if event.done:
            self._unfinished.discard(job)
        if event.row is None or job.left:
            return
        rows.append(event.row)
        if event.row.finish is not None or event.row.error:
            self._jobs.pop(job.sequence, None)

    def stats(self) -> EngineStats:
        """See `Stepper`. Each sequence has its window to itself, so memory is used by places."""
        assert self._config is not None
        jobs = list(self._unfinished)
        running = sum(job.started for job in jobs)
        waiting = sum(not job.started and not job.left for job in jobs)
        used = running / self._config.max_sequences
        return EngineStats(running=running, waiting=waiting, kv_used_ratio=used)

    # -- on the threads that wait for llama.cpp --------------------------------------------------------------------

    def _serve(self) -> None:
        """Answers one sequence after the other; there is one such thread for each that runs at once."""
        while True:
            job = self._work.todo.get()
            job.started = True
            row = None if job.left else self._answer(job)
            self._work.events.put(_Event(job, row, done=True))

    def _answer(self, job: _Job) -> Row | None:
        """Runs one sequence to its end. Returns the row that ends it when nothing else has."""
        try:
            self._server.handle_completions(job.body, lambda said: self._heard(job, said))
        except Exception as error:  # noqa: BLE001 - whatever the library raises ends this sequence alone
            return Row(job.sequence, (), error=f"llama.cpp failed: {type(error).__name__}")
        if job.ended or job.left:
            return None
        return Row(job.sequence, (), error="llama.cpp gave the sequence up without a reason")

    def _heard(self, job: _Job, said: Mapping[str, Any]) -> bool:
        """Passes on what llama.cpp says of a sequence; true when it should stop."""
        if job.left or job.ended:
            return True
        try:
            row = self._row(job, said)
        except (KeyError, IndexError, TypeError, ValueError):
            row = Row(job.sequence, (), error="llama.cpp answered in a form that is not known")
        if row is None:
            return False
        job.ended = row.finish is not None or bool(row.error)
        self._work.events.put(_Event(job, row))
        return job.ended

    def _row(self, job: _Job, said: Mapping[str, Any]) -> Row | None:
        if "error" in said:
            return Row(job.sequence, (), error=_complaint(said["error"]))
        if "prompt_progress" in said:
            return None
        choice, details = said["choices"][0], said["__verbose"]
        text = str(details["content"])
        ids = self._ids(job, text, details)
        stop = next((at for at, token in enumerate(ids) if token in job.stops), None)
        if stop is not None:
            return Row(job.sequence, (*job.held, *ids[:stop]), "stop")
        reason = choice["finish_reason"]
        if job.written is not None:
            job.written += text
            if not _may_be_json(job.written, whole=reason == "stop"):
                return Row(job.sequence, (), error="llama.cpp cannot hold a text to this schema")
        if reason is None and not text:
            job.held += ids
            return None
        held, job.held = job.held, ()
        finish = None if reason is None else _FINISHES.get(reason, "stop")
        return Row(job.sequence, held[:-1] if finish == "stop" else (*held, *ids), finish)

    def _ids(self, job: _Job, text: str, details: Mapping[str, Any]) -> tuple[int, ...]:
        """The ids told, after those withheld before them."""
        ids = tuple(details["tokens"])
        withheld = details["tokens_predicted"] - job.told - len(ids)
        job.told = details["tokens_predicted"]
        if withheld > 0 and ids:
            return (*self._pieces.before(text, last=ids[-1], count=withheld), *ids)
        return ids

    def _end(self) -> None:
        """Before the interpreter goes: a thread that came back from llama.cpp later would take the process down with noise."""
        for job in list(self._unfinished):
            job.left = True
        deadline = time.monotonic() + END_WAIT_S
        while self._unfinished and time.monotonic() < deadline:
            self.step()
        self._server = None


def _may_be_json(text: str, *, whole: bool) -> bool:
    """Whether a text is JSON, or begins like it. A schema that llama.cpp does not understand it leaves out in silence."""
    if not whole:
        return _JSON_BEGINS.match(text) is not None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _complaint(error: Any) -> str:
    """Why llama.cpp refuses a sequence, in its words."""
    message = error.get("message") if isinstance(error, Mapping) else None
    return f"llama.cpp refuses the request: {str(message or 'no reason given')[:200]}"


def _joined(rows: list[Row]) -> list[Row]:
    """One row for each sequence; an error stays a row of its own, after the ids before it."""
    joined: dict[tuple[int, bool], Row] = {}
    for row in rows:
        key = row.sequence, bool(row.error)
        before = joined.get(key)
        ids = row.ids if before is None else before.ids + row.ids
        joined[key] = Row(row.sequence, ids, row.finish, row.error)
    return list(joined.values())
