"""Looks after an engine that is ready: does it move, does it still answer when nobody asks, does it keep to its memory.

Decides when an engine counts as sick although its process lives. It must not know requests, nor what follows from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol, cast

import structlog

from .engine import Chunk, Engine, EngineRequest, Sampling
from .errors import EngineError, LoadFailed
from .memory_watch import MemoryWatch
from .pulse import Pulse

log = structlog.get_logger()

PROOF_TIMEOUT_S = 120.0
MOST_PROVED = 64
"""Tokens, or pieces of text, that may come of a request for one."""
LOOK_S = 1.0
MEMORY_LOOKS = 5
"""Looks at the engine between two at its memory, which take the kernel milliseconds."""

IDLE_PROOF_S = 30.0
IDLE_PROOF_TIMEOUT_S = 20.0


class Prompts(Protocol):
    """As much of a model's text side as a proof needs."""

    def prompt_ids(self, text: str) -> Sequence[int]:
        """The ids of a plain prompt."""
        ...


async def prove(engine: Engine, text: Prompts, timeout_s: float = PROOF_TIMEOUT_S) -> None:
    """Returns when the engine has generated a token: a loaded file proves nothing.

    Raises:
        EngineError: it generated none, or not in time.
    """
    ids = engine.capabilities.ids_in
    request = EngineRequest(
        id="proof",
        prompt_ids=tuple(text.prompt_ids("Hello")) if ids else (),
        sampling=Sampling(max_tokens=1, ignore_eos=True),
        prompt=None if ids else "Hello",
    )
    counted = 0
    chunks = cast("AsyncGenerator[Chunk, None]", engine.generate(request))
    try:
        async with asyncio.timeout(timeout_s), aclosing(chunks):
            async for chunk in chunks:
                counted += len(chunk.ids) or bool(chunk.text or chunk.usage)
                if counted > MOST_PROVED:
                    raise LoadFailed("asked for one token, the engine does not end its text")
    except TimeoutError as error:
        raise LoadFailed(f"no token after {timeout_s:.0f} s") from error
    if not counted:
        raise LoadFailed("the engine loaded but generated no token")


class EngineWatch:
    """Watches one engine until it is sick or the task is cancelled.

    Args:
        on_sick: called once, with why the engine cannot be used any more.
        on_detail: called with what is worth knowing of an engine that works; empty = nothing is.
        look_s, idle_proof_s: seconds between two looks, and without work before the engine has to prove itself.
    """

    def __init__(
        self,
        engine: Engine,
        text: Prompts,
        pulse: Pulse,
        memory: MemoryWatch,
        *,
        on_sick: Callable[[str], None],
        on_detail: Callable[[str], None],
        look_s: float = LOOK_S,
        idle_proof_s: float = IDLE_PROOF_S,
    ) -> None:
        self._engine = engine
        self._text = text
        self._pulse = pulse
        self._memory = memory
        self._on_sick = on_sick
        self._on_detail = on_detail
        self._look_s = look_s
        self._idle_proof_s = idle_proof_s
        self._now = asyncio.get_running_loop().time
        self._active_at = self._now()

    async def run(self) -> None:
        """Looks now and then; returns when the engine is sick."""
        looks = 0
        while not (why := await self._sick()):
            if looks % MEMORY_LOOKS == 0:
                self._on_detail(await asyncio.to_thread(self._memory_detail))
            looks += 1
            await asyncio.sleep(self._look_s)
        self._on_sick(why)

    def _memory_detail(self) -> str:
        """An engine that cannot even say what it consists of is watched nonetheless."""
        try:
            return self._memory.look()
        except Exception:
            log.exception("engine.memory_unknown", engine=self._engine.name)
            return ""

    async def _sick(self) -> str:
        silent_s = self._pulse.stalled_s(self._now())
        if silent_s:
            return f"the engine has not moved for {silent_s:.0f} s"
        if self._pulse.working:
            self._active_at = self._now()
        elif self._now() - self._active_at > self._idle_proof_s:
            self._active_at = self._now()
            return await self._sick_when_idle()
        return ""

    async def _sick_when_idle(self) -> str:
        """An engine that accepts and never answers is found before a client finds it."""
        try:
            if self._engine.capabilities.metered:
                return ""
            await prove(self._engine, self._text, IDLE_PROOF_TIMEOUT_S)
        except EngineError as error:
            return f"the engine does not answer any more: {error.message}"
        except Exception as error:  # noqa: BLE001 - whatever it raises, it gave no token
            return f"the engine does not answer any more: {type(error).__name__}: {error}"
        self._pulse.moves(self, self._now())
        return ""
