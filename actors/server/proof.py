"""When a vendor's server counts as ready: its door is its own, it lists our name, it has generated a token, it is not exposed.

Decides that a page which says `healthy` proves nothing. It must not know how the server was started, nor who asks it later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any

import structlog

from ..engine import EngineConfig, EngineRequest, Sampling
from ..errors import EngineError, LoadFailed
from ..openai.events import Disconnected
from ..openai.stream import OpenAIClient
from ..process_tree import name_of
from .endings import meaning
from .launch import Launch
from .listeners import listeners
from .process import ServerProcess
from .spec import Ending

log = structlog.get_logger()

SERVER_REACHABLE = "server.reachable"

ASK_DEADLINE_S = 5.0
WORDS_WAIT_S = 2.0
_FIRST_LOOK_S, _LOOK_S = 0.02, 0.25
_WARMING = 503


class Proof:
    """Asks one server until it is ready or has failed.

    Args:
        engine: its name.
        endings: what its end may mean.

    Attributes:
        stage: how far it came, for the message when time is up.
    """

    def __init__(
        self,
        engine: str,
        planned: Launch,
        client: OpenAIClient,
        process: ServerProcess,
        endings: tuple[Ending, ...],
    ) -> None:
        self.stage = "it did not answer"
        self._engine = engine
        self._planned = planned
        self._client = client
        self._process = process
        self._endings = endings

    async def run(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """Returns when the server is ready. Waits for ever: the deadline is the caller's.

        Raises:
            LoadFailed: it never will be.
        """
        await self._until_listed()
        self.stage = "it lists the model, but generated no token"
        progress(0.8)
        request = _first_request(config)
        while not await self._generated(request):
            await self._pause(_LOOK_S)
        progress(0.95)
        self._refuse_open_doors(config)

    async def _until_listed(self) -> None:
        pause_s = _FIRST_LOOK_S
        while True:
            names: tuple[str, ...] = ()
            with suppress(EngineError):
                names = await self._client.models(ASK_DEADLINE_S)
            own = bool(self._planned.socket) or self._planned.port in self._ports()
            if names and own:
                break
            if names:
                self.stage = f"another process answers on its port {self._planned.port}"
            await self._pause(pause_s)
            pause_s = min(_LOOK_S, pause_s * 1.3)
        if self._planned.served not in names:
            raise LoadFailed(
                f"engine {self._engine} serves {', '.join(names)[:200]!r}"
                f" in place of {self._planned.served!r}",
                hint="its command must name the model with {served}",
            )

    def _ports(self) -> set[int]:
        return {door.port for door in listeners(self._process.processes())}

    async def _generated(self, request: EngineRequest) -> bool:
        """Whether the first token came; an end of the process ends the wait."""
        token = asyncio.ensure_future(_generates(self._client, request))
        death = asyncio.ensure_future(self._process.died.wait())
        try:
            await asyncio.wait((token, death), return_when=asyncio.FIRST_COMPLETED)
            return token.done() and token.result()
        except EngineError as error:
            await self._judge(error)
            return False
        finally:
            await _dropped(token, death)

    async def _judge(self, error: EngineError) -> None:
        """A server that is still warming up is asked again."""
        self.stage = f"it lists the model, but: {error.message}"
        if not isinstance(error, Disconnected) and error.fields.get("status") != _WARMING:
            await self._pause(_LOOK_S)
            raise LoadFailed(f"asked for its first token, {error.message}", hint="see its log")

    async def _pause(self, pause_s: float) -> None:
        """Waits; not for a server that has ended."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.died.wait(), pause_s)
        if self._process.died.is_set():
            reason, hint = await last_words(self._process, self._endings)
            raise LoadFailed(f"engine {self._engine} did not start: {reason}", hint=hint)

    def _refuse_open_doors(self, config: EngineConfig) -> None:
        doors = [door for door in listeners(self._process.processes()) if door.exposed]
        if len({stage.host for stage in config.stages}) > 1:
            # The stages on other nodes come in by these doors.
            log.warning(SERVER_REACHABLE, engine=self._engine, addresses=sorted(map(str, doors)))
            return
        for door in doors:
            raise LoadFailed(
                f"engine {self._engine} listens on {door}, which other machines may reach"
                f" (process {door.pid}: {name_of(door.pid)})",
                hint="give it the option that keeps it on the loopback",
            )


async def last_words(process: ServerProcess, endings: tuple[Ending, ...]) -> tuple[str, str]:
    """Why a server ended, and what mends it. Its last lines come a moment after its end."""
    with suppress(TimeoutError):
        await asyncio.wait_for(process.gone.wait(), WORDS_WAIT_S)
    return meaning(process.ended, endings)


def _first_request(config: EngineConfig) -> EngineRequest:
    """One token, to see that tokens come at all."""
    token = next(n for n in range(config.facts.vocab or 1 << 16) if n not in config.eos_ids)
    sampling = Sampling(max_tokens=1, ignore_eos=True)
    return EngineRequest(id="first-token", prompt_ids=(token,), prompt="1", sampling=sampling)


async def _generates(client: OpenAIClient, request: EngineRequest) -> bool:
    """Whether a token came; a text that ended by itself at once has had one, too."""
    some = False
    async with aclosing(client.generate(request)) as chunks:
        async for chunk in chunks:
            some = some or bool(chunk.ids or chunk.text) or chunk.finish == "stop"
    return some


async def _dropped(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
