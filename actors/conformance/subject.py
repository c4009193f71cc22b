"""An engine under test: how one is made, and with what it is loaded and asked."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

from placement.errors import ShardyardError
from placement.units import GIB

from ..engine import Chunk, Engine, EngineConfig, EngineRequest, Pace, Sampling
from ..plugins import available_engines, engine_facts, make_engine
from ..sources import form_path, path_of
from ..text import TextModel

WINDOW = 512
SEQUENCES = 4

_NUMBERS = itertools.count()
_GREEDY = Sampling(max_tokens=24)
_PACE = Pace(fixed_s=0.002, per_sequence_s=0.0, prefill_tokens_per_s=1e6, load_s=0.05)
_PROCESSORS = "generic/cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One engine under test.

    Attributes:
        make: a new engine, not loaded.
        prompts: some, as ids; for an engine that takes none as ids, each stands for its entry of `texts`.
        load_s: the longest that it may take to load.
    """

    name: str
    make: Callable[[], Engine]
    config: EngineConfig
    prompts: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...] = ()
    load_s: float = 300.0

    def request(
        self, which: int = 0, *, more: tuple[int, ...] = (), **sampling: Any
    ) -> EngineRequest:
        """A request for one of the prompts; `more` are ids that were emitted already, `sampling` fields of `Sampling`."""
        number = which % len(self.prompts)
        return EngineRequest(
            id=f"{self.name}-{next(_NUMBERS)}",
            prompt_ids=(*self.prompts[number], *more),
            sampling=replace(_GREEDY, **sampling),
        )

    def asked(self, engine: Engine, request: EngineRequest, which: int = 0) -> EngineRequest:
        """The request as the engine takes it: with text instead of ids, when it takes no ids."""
        if engine.capabilities.ids_in:
            return request
        text = self.texts[which % len(self.texts)]
        return replace(request, prompt_ids=(), messages=({"role": "user", "content": text},))


async def generated(engine: Engine, request: EngineRequest) -> list[Chunk]:
    """All chunks of a request."""
    async with aclosing(cast("Any", engine.generate(request))) as chunks:
        return [chunk async for chunk in chunks]


def ids_of(chunks: list[Chunk]) -> tuple[int, ...]:
    """All ids, in order."""
    return tuple(n for chunk in chunks for n in chunk.ids)


def said(chunks: list[Chunk]) -> str | tuple[int, ...]:
    """What was generated: the ids, or the text of an engine that tells none."""
    text = "".join(chunk.text or "" for chunk in chunks)
    return ids_of(chunks) or text


def tested(name: str, source: str, **changes: Any) -> Subject | str:
    """See `subject_of`; a sentence with the next command when it cannot be tested here."""
    _, broken = available_engines()
    lacking = next((b for b in broken if b.name == name), None)
    if lacking is not None:
        return f"{lacking.reason}; next: {lacking.hint}"
    facts = engine_facts(name)
    drives = sorted(facts.drives) if facts is not None else []
    here = not drives or any(pair.startswith(_PROCESSORS) for pair in drives)
    if not here and not changes.get("handles"):
        return f"it drives {', '.join(drives)}; next: --shardyard-handle HANDLE"
    try:
        return subject_of(name, source, **changes)
    except ShardyardError as error:
        return f"{error.message}; next: {error.hint}" if error.hint else error.message


def subject_of(name: str, source: str, **changes: Any) -> Subject:
    """An installed engine with a model of this machine.

    Args:
        name: of the engine, as in a spec.
        source: of the model, as in a spec.
        changes: fields of `EngineConfig`.

    Raises:
        ShardyardError: there is no such engine or model here.
    """
    text = TextModel.load(path_of(source))
    facts = engine_facts(name)
    dtype = changes.get("dtype")
    form = ""
    if facts is None or facts.drives:  # what drives nothing reads nothing
        form = str(form_path(source, facts.formats if facts else frozenset(), dtype))
    config = EngineConfig(
        model=source.rpartition("/")[2],
        model_path=form,
        facts=text.facts,
        device_class="CPU",
        arithmetic="fast",
        window=WINDOW,
        max_sequences=SEQUENCES,
        kv_bytes=GIB,
        threads=1,
        eos_ids=text.eos_ids,
        word_ids=text.word_ids(),
        pace=_PACE,
    )
    questions = tuple(
        f"What is the capital of {country}?"
        for country in ("France", "Japan", "Kenya", "Peru", "Norway", "India", "Canada", "Spain")
    )
    return Subject(
        name=name,
        make=lambda: make_engine(name),
        config=replace(config, **changes),
        prompts=tuple(text.chat_ids([{"role": "user", "content": q}]) for q in questions),
        texts=questions,
    )


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Returns as soon as a condition holds; fails after the time."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - nobody tells when a process is gone
            await asyncio.sleep(0.01)
