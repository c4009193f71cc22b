"""A replica without a gateway: loading, admission, windows, stop strings, drain, death, frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import structlog
from support.dataplane import PACE, SECRET, WINDOW, ScriptedEngine, a_replica, a_slot, until

from actors.admission import Admission
from actors.engine import Capabilities, Chunk, EngineConfig, EngineRequest
from actors.errors import EngineCrashed, LoadFailed, Refused
from actors.generation import LEAST_TOP_P
from actors.replica import Replica
from actors.session import Session
from actors.wire import (
    Answer,
    End,
    Failure,
    First,
    Frame,
    FrameReader,
    Hello,
    Kind,
    Open,
    Reject,
    State,
    Tokens,
    Welcome,
    credit_frame,
    decode,
    encode,
    frame,
)


class Outcome:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def deliver(self, answer: Answer) -> None:
        self.answers.append(answer)

    @property
    def last(self) -> Answer:
        return self.answers[-1]

    @property
    def text(self) -> str:
        return "".join(a.text for a in self.answers if isinstance(a, Tokens))


def a_request(**fields) -> Open:
    return Open(**{"id": "q", "kind": "completion", "prompt": "hi"} | fields)


async def ready(engine: ScriptedEngine, **slot) -> Replica:
    replica = a_replica(a_slot(**slot), engine)
    await replica.start()
    await until(lambda: replica.status().state != "loading")
    return replica


async def ask(replica: Replica, **fields) -> Outcome:
    outcome = Outcome()
    await replica.answer(a_request(**fields), outcome)
    return outcome


async def test_it_listens_at_once_and_is_ready_after_a_token() -> None:
    engine = ScriptedEngine()
    engine.loadable.clear()
    changes: list[str] = []
    replica = a_replica(a_slot(), engine, lambda: changes.append("x"))
    port = await replica.start()
    assert port > 0
    assert replica.status().state == "loading"
    early = await ask(replica)
    assert early.last == Reject("model_loading", "the model is still loading", None, 2.0)
    engine.loadable.set()
    await until(lambda: replica.status().state == "ready")
    assert replica.status().load_ratio == 1.0
    assert len(changes) >= 2
    assert engine.config is not None
    assert engine.config.eos_ids == (256,)
    await replica.close()


async def test_a_failed_load_is_a_state_with_a_reason() -> None:
    replica = await ready(ScriptedEngine(broken="no such file"))
    assert replica.status().state == "failed"
    with pytest.raises(LoadFailed, match="no such file"):
        replica.check()
    assert (await ask(replica)).last.code == "no_healthy_replica"
    await replica.close()


async def test_an_engine_without_a_token_is_not_ready() -> None:
    replica = await ready(ScriptedEngine(reply=""))
    assert replica.status().state == "failed"
    await replica.close()


async def test_an_answer_is_first_tokens_end() -> None:
    replica = await ready(ScriptedEngine("héy"))
    outcome = await ask(replica, seed=5)
    first, *tokens, end = outcome.answers
    assert first == First((104, 105), WINDOW - 2, 5)
    assert [t.ids for t in tokens] == [(104,), (0xC3,), (0xA9,), (121,)]
    assert [t.text for t in tokens] == ["h", "", "é", "y"]
    assert end == End("stop", 2, 4)
    assert replica.status().completed == 1
    assert replica.status().generated_tokens == 4
    await replica.close()


async def test_a_seed_is_drawn_and_told() -> None:
    replica = await ready(ScriptedEngine())
    firsts = [(await ask(replica)).answers[0] for _ in range(2)]
    assert firsts[0].seed != firsts[1].seed
    await replica.close()


async def test_what_single_precision_would_make_zero_is_settled_before_the_engine() -> None:
    engine = ScriptedEngine()
    replica = await ready(engine)
    await ask(replica, temperature=1e-300, top_p=1e-300)
    await ask(replica, temperature=0.5, top_p=0.5)
    tiny, usual = (request.sampling for request in engine.requests)
    assert (tiny.temperature, tiny.top_p) == (0.0, LEAST_TOP_P)
    assert (usual.temperature, usual.top_p) == (0.5, 0.5)
    await replica.close()


@pytest.mark.parametrize(("asked", "granted"), [(None, WINDOW - 2), (10**30, WINDOW - 2), (3, 3)])
async def test_max_tokens_is_clamped_to_the_window(asked, granted) -> None:
    engine = ScriptedEngine()
    replica = await ready(engine)
    await ask(replica, max_tokens=asked)
    assert engine.requests[0].sampling.max_tokens == granted
    await replica.close()


@pytest.mark.parametrize("length", [WINDOW, WINDOW + 5000])
async def test_a_prompt_beyond_the_window_is_refused_with_both_numbers(length: int) -> None:
    engine = ScriptedEngine()
    replica = await ready(engine)
    reject = (await ask(replica, prompt="x" * length)).last
    assert isinstance(reject, Reject)
    assert (reject.code, reject.param) == ("context_length_exceeded", "prompt")
    assert str(WINDOW) in reject.message
    assert str(length) in reject.message
    assert engine.requests == []
    await replica.close()


@pytest.mark.parametrize("prompt", ["", [], [257], [-1]])
async def test_prompts_that_are_none_are_refused(prompt) -> None:
    replica = await ready(ScriptedEngine())
    reject = (await ask(replica, prompt=prompt)).last
    assert isinstance(reject, Reject)
    assert (reject.code, reject.param) == ("invalid_value", "prompt")
    await replica.close()


async def test_a_stop_string_over_chunk_borders_ends_the_text_and_the_sequence() -> None:
    engine = ScriptedEngine("one two three")
    replica = await ready(engine)
    outcome = await ask(replica, stop=(" tw",))
    assert outcome.text == "one"
    assert outcome.last == End("stop", 2, 6)
    assert engine.aborted == ["q"]
    await replica.close()


async def test_what_a_stop_string_held_back_comes_with_the_end() -> None:
    replica = await ready(ScriptedEngine("one t"))
    outcome = await ask(replica, stop=(" two",))
    assert outcome.text == "one t"
    await replica.close()


async def test_beyond_the_queue_requests_are_refused_and_waiting_ones_keep_their_order() -> None:
    engine = ScriptedEngine("ab", paced=True)
    replica = await ready(engine, concurrency=1, queue=2)
    outcomes = [Outcome() for _ in range(4)]
    tasks = [replica.answer(a_request(id=str(k)), outcome) for k, outcome in enumerate(outcomes)]
    await engine.until(lambda e: len(e.requests) == 1)
    assert isinstance(outcomes[3].last, Reject)
    assert outcomes[3].last.code == "queue_full"
    assert outcomes[3].last.retry_after_s >= 1
    assert (replica.status().running, replica.status().waiting) == (1, 2)
    await engine.step(2)
    await asyncio.gather(*tasks)
    assert [request.id for request in engine.requests] == ["0", "1", "2"]
    assert (replica.status().running, replica.status().waiting) == (0, 0)
    await replica.close()


async def test_a_waiting_request_keeps_its_deadline() -> None:
    engine = ScriptedEngine(paced=True)
    replica = await ready(engine, concurrency=1, queue=2)
    running = replica.answer(a_request(id="long"), Outcome())
    late = await ask(replica, id="late", deadline_s=0.01)
    assert isinstance(late.last, Failure)
    assert late.last.code == "deadline_exceeded"
    assert replica.status().waiting == 0
    running.cancel()
    await engine.until(lambda e: e.aborted == ["long"])
    await replica.close()


async def test_a_cancelled_waiter_passes_its_turn_on() -> None:
    admission = Admission(1, 2)
    tickets = [admission.reserve() for _ in range(3)]
    await tickets[0].turn()
    waiters = [asyncio.create_task(ticket.turn()) for ticket in tickets[1:]]
    await until(lambda: len(admission._turns) == 2)
    tickets[0].leave()
    waiters[0].cancel()
    await asyncio.wait(waiters)
    tickets[1].leave()
    assert waiters[1].done()
    assert not waiters[1].cancelled()
    tickets[2].leave()
    assert (admission.running, admission.held) == (0, 0)
    with pytest.raises(Refused):
        for _ in range(4):
            admission.reserve()


async def test_a_crashed_engine_fails_every_stream_and_the_health_check() -> None:
    engine = ScriptedEngine(paced=True)
    replica = await ready(engine)
    outcomes = [Outcome(), Outcome()]
    tasks = [replica.answer(a_request(), outcome) for outcome in outcomes]
    await engine.until(lambda e: len(e.requests) == 2)
    replica.check()
    await engine.crash()
    await asyncio.gather(*tasks)
    for outcome in outcomes:
        assert isinstance(outcome.last, Failure)
        assert (outcome.last.code, outcome.last.retryable) == ("engine_crashed", True)
    with pytest.raises(EngineCrashed):
        replica.check()
    await replica.close()


async def test_drain_refuses_new_and_finishes_running_requests() -> None:
    engine = ScriptedEngine("ab", paced=True)
    replica = await ready(engine)
    running = Outcome()
    replica.answer(a_request(), running)
    await engine.until(lambda e: len(e.requests) == 1)
    draining = asyncio.create_task(replica.drain(5))
    await until(lambda: replica.status().state == "draining")
    assert (await ask(replica)).last.code == "draining"
    await engine.step(2)
    await draining
    assert running.last == End("stop", 2, 2)
    with pytest.raises(EngineCrashed):
        replica.check()


async def test_what_drain_cuts_gets_an_error() -> None:
    engine = ScriptedEngine(paced=True)
    replica = await ready(engine)
    running = Outcome()
    replica.answer(a_request(), running)
    await engine.until(lambda e: len(e.requests) == 1)
    await replica.drain(0.01)
    assert isinstance(running.last, Failure)
    assert running.last.retryable
    assert engine.aborted == ["q"]


# -- the connection -------------------------------------------------------------------------------------------------


class Peer:
    """A gateway made of two streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._frames = FrameReader()
        self._got: list = []

    @classmethod
    async def connect(cls, port: int, secret: str = SECRET, **hello) -> Peer:
        peer = cls(*await asyncio.open_connection("127.0.0.1", port))
        peer.send(encode(0, Hello(secret=secret, gateway="test", **hello)))
        return peer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def next(self):
        """The next message that is no STATE and no PONG, or None at the end."""
        async with asyncio.timeout(5):
            while True:
                while not self._got:
                    data = await self._reader.read(65536)
                    if not data:
                        return None
                    self._got += self._frames.feed(data)
                got = self._got.pop(0)
                if got.kind == Kind.PONG:
                    return Kind.PONG
                message = decode(got.kind, got.payload)
                if not isinstance(message, State):
                    return message


@pytest.fixture
async def served():
    engine = ScriptedEngine("abcdef", paced=True)
    replica = a_replica(a_slot(), engine)
    port = await replica.start()
    await until(lambda: replica.status().state == "ready")
    yield engine, replica, port
    await replica.close()


async def test_hello_is_answered_with_slot_and_state(served) -> None:
    _, _, port = served
    peer = await Peer.connect(port)
    assert await peer.next() == Welcome(slot="tiny/r0", incarnation="tiny/r0#1", state="ready")
    peer.send(frame(0, Kind.PING))
    assert await peer.next() == Kind.PONG
    peer.writer.close()


@pytest.mark.parametrize(
    ("hello", "code"), [({"secret": "wrong"}, "wrong_secret"), ({"version": 99}, "wrong_version")]
)
async def test_a_bad_hello_is_told_why_and_closed(served, hello, code) -> None:
    _, _, port = served
    peer = await Peer.connect(port, **hello)
    refusal = await peer.next()
    assert refusal.code == code
    assert await peer.next() is None
    peer.writer.close()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", frame(1, Kind.PONG), b"\xff" * 64, encode(3, Tokens((1,), "x"))],
)
async def test_malformed_frames_close_only_their_connection(served, garbage) -> None:
    engine, _, port = served
    good, bad = await Peer.connect(port), await Peer.connect(port)
    await good.next()
    await bad.next()
    good.send(encode(1, a_request()))
    assert isinstance(await good.next(), First)
    bad.send(garbage)
    assert await bad.next() is None
    await engine.step(6)
    answers = [await good.next() for _ in range(7)]
    assert answers[-1] == End("stop", 2, 6)
    for peer in (good, bad):
        peer.writer.close()


async def test_a_malformed_request_is_refused_on_its_stream_only(served) -> None:
    _, _, port = served
    peer = await Peer.connect(port)
    await peer.next()
    peer.send(frame(1, Kind.OPEN, b'{"id": 5}'))
    assert (await peer.next()).code == "invalid_value"
    peer.send(encode(2, a_request()))
    assert isinstance(await peer.next(), First)
    peer.writer.close()


async def test_without_credit_tokens_gather_into_one_frame(served) -> None:
    engine, _, port = served
    peer = await Peer.connect(port)
    await peer.next()
    peer.send(encode(1, a_request(credits=2)))
    assert isinstance(await peer.next(), First)
    await engine.step(5)
    assert [(await peer.next()).text for _ in range(2)] == ["a", "b"]
    peer.send(frame(0, Kind.PING))
    assert await peer.next() == Kind.PONG
    peer.send(credit_frame(1, 5))
    assert await peer.next() == Tokens(tuple(b"cde"), "cde")
    await engine.step(1)
    assert await peer.next() == Tokens((102,), "f")
    assert await peer.next() == End("stop", 2, 6)
    peer.writer.close()


@pytest.mark.parametrize("how", ["cancel", "hang up"])
async def test_cancel_and_loss_abort_the_sequence(served, how) -> None:
    engine, replica, port = served
    peer = await Peer.connect(port)
    await peer.next()
    peer.send(encode(1, a_request()))
    await engine.until(lambda e: len(e.requests) == 1)
    if how == "cancel":
        peer.send(frame(1, Kind.CANCEL))
    else:
        peer.writer.close()
    await engine.until(lambda e: e.aborted == ["q"])
    await until(lambda: replica.status().running == 0)
    assert replica.status().cancelled == 1
    peer.writer.close()


class Calibrated(ScriptedEngine):
    """Answers a proof, but nothing that measures it; does not close either."""

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        if request.id.startswith("calibrate"):
            raise ValueError("no such batch")
        async for chunk in super().generate(request):
            yield chunk

    async def close(self) -> None:
        raise RuntimeError("closed twice")


async def test_an_engine_that_cannot_be_measured_or_closed_is_of_use_and_ends() -> None:
    replica = await ready(Calibrated(), calibrate=True)
    assert (replica.status().state, replica.status().measured) == ("ready", None)
    await replica.close()


async def test_more_text_than_a_frame_has_room_for_gathers_and_arrives(served) -> None:
    engine, _, port = served
    text = "\N{GRINNING FACE}" * (5 << 20)
    engine.generate = _says(text)
    peer = await Peer.connect(port)
    await peer.next()
    peer.send(encode(1, a_request(credits=0)))
    assert isinstance(await peer.next(), First)
    got = ""
    while not isinstance(answer := await peer.next(), End):
        assert isinstance(answer, Tokens)
        got += answer.text
    assert got == text
    peer.writer.close()


def _says(text: str):
    async def generate(_request: EngineRequest) -> AsyncIterator[Chunk]:
        for start in range(0, len(text), 1 << 20):
            yield Chunk((), text=text[start : start + (1 << 20)])
        yield Chunk((), "stop", text="")

    return generate


class Broken(ScriptedEngine):
    """Raises what not even `Exception` holds."""

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        if request.id != "proof":
            raise GeneratorExit
        async for chunk in super().generate(request):
            yield chunk


class Raising(ScriptedEngine):
    """Raises what it is given, while it loads or when it is asked."""

    def __init__(self, *, load: BaseException | None = None, ask: BaseException | None = None):
        super().__init__()
        self._load_error, self._ask_error = load, ask

    async def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        if self._load_error is not None:
            raise self._load_error
        await super().load(config, progress)

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        if self._ask_error is not None and request.id != "proof":
            raise self._ask_error
        async for chunk in super().generate(request):
            yield chunk


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TimeoutError("the bus"), "loading failed: TimeoutError: the bus"),
        (asyncio.CancelledError(), "something in the engine cancelled it"),
    ],
)
async def test_what_an_engine_raises_while_it_loads_is_not_ours(
    error: BaseException, says: str
) -> None:
    replica = await ready(Raising(load=error))
    assert replica.status().state == "failed"
    assert says in replica.status().detail
    await replica.close()


async def test_an_engine_that_cannot_say_what_it_can_is_told_of() -> None:
    class Mute(ScriptedEngine):
        loaded = False

        @property
        def capabilities(self) -> Capabilities:
            if self.loaded:
                raise AttributeError("no model")
            return Capabilities()

        @capabilities.setter
        def capabilities(self, _: Capabilities) -> None:
            """As the scripted engine is made."""

    engine = Mute()
    replica = await ready(engine)
    engine.loaded = True
    assert replica.status().capabilities == Capabilities()
    assert isinstance((await ask(replica)).last, Failure)
    await replica.close()


async def test_a_time_out_within_an_engine_is_not_the_deadline() -> None:
    replica = await ready(Raising(ask=TimeoutError("the bus")))
    outcome = await ask(replica)
    assert outcome.last == Failure("internal_error", "the replica could not answer this request")
    await replica.close()


async def test_more_than_was_asked_for_never_leaves_the_replica() -> None:
    class Generous(ScriptedEngine):
        async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
            if request.id == "proof":
                yield Chunk((65,), "stop")
            while request.id != "proof":
                await asyncio.sleep(0)
                yield Chunk((65, 66))

    replica = await ready(Generous())
    outcome = await ask(replica, max_tokens=5)
    assert (outcome.text, outcome.last) == ("ABABA", End("length", 2, 5))
    await replica.close()


async def test_what_an_engine_says_of_a_prompt_is_not_logged() -> None:
    class Telling(ScriptedEngine):
        async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
            if request.id != "proof":
                raise ValueError(bytes(request.prompt_ids).decode())
            async for chunk in super().generate(request):
                yield chunk

    replica = await ready(Telling())
    with structlog.testing.capture_logs() as logs:
        outcome = await ask(replica, prompt="my diary")
    assert outcome.last == Failure("internal_error", "the replica could not answer this request")
    [told] = [event for event in logs if event["event"] == "generation.broken"]
    assert told["error"] == "ValueError"
    assert any("generate" in place for place in told["where"])
    assert "diary" not in repr(logs)
    await replica.close()


async def test_a_stream_that_ends_in_any_way_is_told_to_its_gateway() -> None:
    replica = await ready(Broken())
    sent: list[bytes] = []
    session = Session(replica, SECRET, set())
    session.send = sent.append
    session._greeted = True
    session.received(Frame(1, Kind.OPEN, encode(1, a_request())[9:]))
    await until(lambda: any(isinstance(_answer(data), Failure) for data in sent))
    await replica.close()


def _answer(data: bytes) -> object:
    return decode(data[8], data[9:])


class Silent(ScriptedEngine):
    """Takes requests and says nothing."""

    async def generate(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        if request.id != "proof":
            self.requests.append(request)
            await asyncio.Event().wait()
        yield Chunk((65,), "stop")


async def test_a_silence_counts_by_where_the_engine_is_and_what_it_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.replica.LEAST_S", 0.1)
    slow = replace(PACE, prefill_tokens_per_s=1.0)
    writes = Capabilities(ids_in=False, ids_out=False)
    endpoint = await ready(Silent(), family="remote")
    reads = await ready(Silent(capabilities=writes), pace=slow)
    hung = await ready(Silent())
    asked = [
        replica.answer(a_request(prompt="a long letter"), Outcome())
        for replica in (endpoint, reads, hung)
    ]
    await until(lambda: hung.status().state == "failed")
    assert "has not moved" in hung.status().detail
    assert (endpoint.status().state, reads.status().state) == ("ready", "ready")
    for replica in (endpoint, reads, hung):
        await replica.close()
    assert all(task.done() for task in asked)
