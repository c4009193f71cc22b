"""A replica without Ray: listener, loading, admission, drain and health around one engine.

Decides when a replica is ready and what ends it. It must not know who placed it or who routes to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from placement.errors import ShardyardError

from .admission import Admission
from .engine import Engine, EngineConfig, EngineRequest, Sampling
from .errors import EngineCrashed, LoadFailed
from .generation import Generation, Sink, Text
from .session import Session
from .slot import SlotSpec
from .vendors import visibility
from .wire import Answer, End, Failure, Open, Reject, State, Welcome

log = structlog.get_logger()

LOAD_TIMEOUT_S = 1800.0
PROOF_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 10.0
_PROGRESS_STEP = 0.01

Condition = Literal["loading", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """One replica on this node.

    Attributes:
        incarnation: new for every process.
        model_path: weights on this node; empty for an engine that needs none.
        secret: of the frames; a gateway without it is refused.
        port: 0 = any free one.
    """

    slot: SlotSpec
    incarnation: str
    model_path: str
    secret: str
    host: str = "127.0.0.1"
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """A replica now, and what it has done since it started."""

    state: Condition
    detail: str
    load_ratio: float
    running: int
    waiting: int
    window: int
    completed: int
    rejected: int
    failed: int
    cancelled: int
    generated_tokens: int


class Replica:
    """Serves one engine to any number of gateways.

    Args:
        text_loader: blocking; runs in a thread.
        on_change: called on the loop when the state or the done fraction of loading changes.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        engine: Engine,
        text_loader: Callable[[], Text],
        on_change: Callable[[], None],
    ) -> None:
        self._config = config
        self._engine = engine
        self._text_loader = text_loader
        self._on_change = on_change
        self._admission = Admission(config.slot.concurrency, config.slot.queue)
        self._state: Condition = "loading"
        self._detail = ""
        self._load_ratio = 0.0
        self._window = config.slot.window
        self._text: Text | None = None
        self._server: asyncio.Server | None = None
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        self._counts = {"completed": 0, "rejected": 0, "failed": 0, "cancelled": 0}
        self._generated_tokens = 0

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Listens at once, loads in the background; returns the port."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Session(self, self._config.secret, self._sessions),
            self._config.host,
            self._config.port,
        )
        self._loading = asyncio.create_task(self._load())
        return int(self._server.sockets[0].getsockname()[1])

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                text = await asyncio.to_thread(self._text_loader)
                self._window = min(self._config.slot.window, text.window)
                await self._engine.load(self._engine_config(text), self._progress)
            await self._prove(text)
        except ShardyardError as error:
            self._fail(error.message)
        except TimeoutError:
            self._fail(f"not loaded after {LOAD_TIMEOUT_S:.0f} s")
        except Exception as error:
            log.exception("replica.load_broken", slot=self._config.slot.id)
            self._fail(f"loading failed: {type(error).__name__}: {error}")
        else:
            self._text = text
            self._load_ratio = 1.0
            if self._state == "loading":
                self._become("ready")

    def _engine_config(self, text: Text) -> EngineConfig:
        slot = self._config.slot
        given, unset = visibility(slot.family, slot.handles)
        return EngineConfig(
            model_path=self._config.model_path,
            facts=text.facts,
            device_class=slot.device_class,
            arithmetic=slot.arithmetic,
            window=self._window,
            max_sequences=slot.concurrency,
            kv_bytes=slot.kv_bytes,
            threads=slot.threads,
            eos_ids=tuple(text.eos_ids),
            pace=slot.pace,
            word_ids=tuple(text.word_ids()) if slot.emulated else (),
            environment=tuple(sorted(given.items())),
            unset=tuple(sorted(unset)),
        )

    def _progress(self, ratio: float) -> None:
        if ratio - self._load_ratio >= _PROGRESS_STEP:
            self._load_ratio = min(ratio, 1.0)
            self._on_change()

    async def _prove(self, text: Text) -> None:
        """Readiness means a generated token, not a loaded file."""
        prompt = tuple(text.prompt_ids("Hello"))
        sampling = Sampling(max_tokens=1, ignore_eos=True)
        request = EngineRequest(id="proof", prompt_ids=prompt, sampling=sampling)
        try:
            async with asyncio.timeout(PROOF_TIMEOUT_S):
                got = sum([len(chunk.ids) async for chunk in self._engine.generate(request)])
        except TimeoutError as error:
            raise LoadFailed(f"no token after {PROOF_TIMEOUT_S:.0f} s") from error
        if got == 0:
            raise LoadFailed("the engine loaded but generated no token")

    async def drain(self, timeout_s: float) -> None:
        """Refuses new requests, lets running and waiting ones finish for at most `timeout_s`, then closes."""
        if self._state in ("ready", "loading"):
            self._become("draining")
        if self._tasks:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
        await self.close()

    async def close(self) -> None:
        """Ends everything now: open streams get an ERROR frame, then EOF. Idempotent."""
        if self._server is not None:
            self._server.close()
        pending = [task for task in (*self._tasks, self._loading) if task and not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=CLOSE_TIMEOUT_S)
        for session in tuple(self._sessions):
            session.hang_up()
        try:
            await asyncio.wait_for(self._engine.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            log.warning("engine.close_late", slot=self._config.slot.id)

    # -- state --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises when this replica should be replaced.

        Raises:
            EngineCrashed: the engine or the listener is gone.
            LoadFailed: the model could not be loaded.
        """
        if self._server is None or not self._server.is_serving():
            raise EngineCrashed("the listener is gone")
        if self._state in ("ready", "draining") and not self._engine.alive():
            self._fail("the engine ended")
        if self._state == "failed":
            raise (LoadFailed if self._text is None else EngineCrashed)(self._detail)

    def status(self) -> ReplicaStatus:
        """State and counts now."""
        return ReplicaStatus(
            state=self._state,
            detail=self._detail,
            load_ratio=self._load_ratio,
            running=self._admission.running,
            waiting=self._admission.waiting,
            window=self._window,
            generated_tokens=self._generated_tokens,
            **self._counts,
        )

    def welcome(self) -> Welcome:
        """Answer to a gateway's HELLO."""
        slot = self._config.slot.id
        return Welcome(slot=slot, incarnation=self._config.incarnation, state=self._state)

    def state(self) -> State:
        """State and load as gateways hear them."""
        return State(
            state=self._state,
            load_ratio=self._load_ratio,
            running=self._admission.running,
            waiting=self._admission.waiting,
        )

    def _become(self, state: Condition, detail: str = "") -> None:
        self._state = state
        self._detail = detail
        log.info("replica.changed", slot=self._config.slot.id, state=state, detail=detail)
        for session in self._sessions:
            session.send_state()
        self._on_change()

    def _fail(self, detail: str) -> None:
        if self._state != "failed":
            self._become("failed", detail)

    # -- requests -----------------------------------------------------------------------------------------------

    def answer(self, request: Open, sink: Sink) -> asyncio.Task[None]:
        """Starts to answer a request; cancelling the task aborts the sequence in the engine."""
        task = asyncio.get_running_loop().create_task(self._run(request, sink))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()

    async def _run(self, request: Open, sink: Sink) -> None:
        refusal = self._refusal()
        if refusal is not None or self._text is None:
            self._count(refusal)
            sink.deliver(refusal or Reject("model_loading", "the model is still loading"))
            return
        generation = Generation(
            request,
            sink,
            engine=self._engine,
            text=self._text,
            window=self._window,
            admission=self._admission,
            on_death=self._fail,
        )
        try:
            self._count(await generation.run())
        except asyncio.CancelledError:
            self._counts["cancelled"] += 1
            sink.deliver(Failure("replica_closed", "the replica closed the stream", True))
            raise

    def _refusal(self) -> Reject | None:
        if self._state == "draining":
            return Reject("draining", "this replica takes no new requests", None, 1.0)
        if self._state == "loading":
            return Reject("model_loading", "the model is still loading", None, 2.0)
        if self._state == "failed":
            return Reject("no_healthy_replica", "the engine of this replica is dead", None, 2.0)
        return None

    def _count(self, last: Answer | None) -> None:
        if type(last) is End:
            self._counts["completed"] += 1
            self._generated_tokens += last.completion_tokens
        elif type(last) is Failure:
            self._counts["failed"] += 1
        else:
            self._counts["rejected"] += 1
