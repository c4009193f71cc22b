"""A replica without Ray: listener, loading, admission, drain and health around one engine.

Decides when a replica is ready and what ends it. It must not know who placed it or who routes to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from placement.errors import ShardyardError
from placement.modelspec import ModelFacts

from .admission import Admission
from .calibrate import QUICK, Measured, measure_loaded
from .engine import UNKNOWN, Capabilities, Engine, EngineConfig
from .engine_config import ANYWHERE, REMOTE, Place, engine_config
from .engine_watch import EngineWatch, prove
from .errors import EngineCrashed, EngineError, LoadFailed
from .generation import Generation, Sink, Text
from .memory_watch import MemoryWatch
from .pulse import ELSEWHERE_LEAST_S, LEAST_S, Pulse
from .session import Session
from .slot import SlotSpec
from .wire import Answer, End, Failure, Open, Reject, State, Welcome

log = structlog.get_logger()

LOAD_TIMEOUT_S = 1800.0
CLOSE_TIMEOUT_S = 15.0
CALIBRATION_S = 2.0
"""A replica that is wanted waits this long, and some more, to be measured."""

_PROGRESS_STEP = 0.01

Condition = Literal["loading", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """One replica on this node.

    Attributes:
        incarnation: new for every process.
        place: what this node adds to the slot.
        secret: of the frames; a gateway without it is refused.
        port: 0 = any free one.
    """

    slot: SlotSpec
    incarnation: str
    secret: str
    place: Place = ANYWHERE
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
    capabilities: Capabilities
    facts: ModelFacts | None
    measured: Measured | None
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
        companions: starts what the engine needs on other nodes, just before it is loaded.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        engine: Engine,
        text_loader: Callable[[], Text],
        on_change: Callable[[], None],
        *,
        companions: Callable[[EngineConfig], Awaitable[None]] | None = None,
    ) -> None:
        self._config = config
        self._engine = engine
        self._text_loader = text_loader
        self._on_change = on_change
        self._companions = companions
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
        self._measured: Measured | None = None
        elsewhere = config.slot.family == REMOTE
        self._pulse = Pulse(config.slot.pace, least_s=ELSEWHERE_LEAST_S if elsewhere else LEAST_S)
        self._watching: asyncio.Task[None] | None = None

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
        limit = asyncio.timeout(LOAD_TIMEOUT_S)
        try:
            async with limit:
                text = await asyncio.to_thread(self._text_loader)
                self._window = min(self._config.slot.window, text.window)
                config = engine_config(
                    self._config.slot, text, self._config.place, window=self._window
                )
                if self._companions is not None:
                    await self._companions(config)
                await self._engine.load(config, self._progress)
            await prove(self._engine, text)
            if self._config.slot.calibrate and not self._engine.capabilities.metered:
                self._measured = await self._calibrate(config)
        except ShardyardError as error:
            self.fail(f"{error.message}; {error.hint}" if error.hint else error.message)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.fail("loading failed: something in the engine cancelled it")
        except Exception as error:
            if limit.expired():
                self.fail(f"not loaded after {LOAD_TIMEOUT_S:.0f} s")
                return
            log.exception("replica.load_broken", slot=self._config.slot.id)
            self.fail(f"loading failed: {type(error).__name__}: {error}")
        else:
            self._text = text
            self._load_ratio = 1.0
            self._watching = asyncio.create_task(self._watch(text).run())
            if self._state == "loading":
                self._become("ready")

    async def _calibrate(self, config: EngineConfig) -> Measured | None:
        """What the engine does, for the next plan; None when it is too slow to be measured in passing."""
        clock = asyncio.get_running_loop().time
        try:
            return await measure_loaded(
                self._engine, config, budget_s=CALIBRATION_S, clock=clock, course=QUICK
            )
        except EngineError as error:
            log.warning("replica.not_measured", slot=self._config.slot.id, detail=error.message)
        except Exception:  # it has generated a token, so it is of use unmeasured, too
            log.exception("replica.not_measured", slot=self._config.slot.id)
        return None

    def _watch(self, text: Text) -> EngineWatch:
        planned = self._config.slot.memory_bytes if self._config.slot.threads else 0
        return EngineWatch(
            self._engine,
            text,
            self._pulse,
            MemoryWatch(self._engine.processes, planned),
            on_sick=self.fail,
            on_detail=self._tell,
        )

    def _tell(self, detail: str) -> None:
        """Something worth knowing of a replica that works."""
        if self._state == "ready" and detail != self._detail:
            self._detail = detail
            if detail:
                log.warning("replica.outgrown", slot=self._config.slot.id, detail=detail)
            self._on_change()

    def _progress(self, ratio: float) -> None:
        if ratio - self._load_ratio >= _PROGRESS_STEP:
            self._load_ratio = min(ratio, 1.0)
            self._on_change()

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
        own = (*self._tasks, self._loading, self._watching)
        pending = [task for task in own if task and not task.done()]
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
        except Exception:
            log.exception("engine.close_broken", slot=self._config.slot.id)

    # -- state --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises when this replica should be replaced.

        Raises:
            EngineCrashed: the engine or the listener is gone.
            LoadFailed: the model could not be loaded.
        """
        if self._server is None or not self._server.is_serving():
            raise EngineCrashed("the listener is gone")
        sick = self._engine.health() if self._state in ("ready", "draining") else ""
        if sick:
            self.fail(sick)
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
            capabilities=self._capabilities(),
            facts=self._text.facts if self._text is not None else None,
            measured=self._measured,
            generated_tokens=self._generated_tokens,
            **self._counts,
        )

    def _capabilities(self) -> Capabilities:
        """A replica whose engine cannot say is told of all the same."""
        try:
            return self._engine.capabilities
        except Exception:
            log.exception("engine.capabilities_broken", slot=self._config.slot.id)
            return UNKNOWN

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

    def fail(self, detail: str) -> None:
        """Takes no more requests: what it needs is gone. `check` then says so."""
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
            pulse=self._pulse,
            on_death=self.fail,
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
