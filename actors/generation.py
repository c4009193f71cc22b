"""One request inside a replica: from its OPEN to its last frame.

Decides window, clamping, stop strings and usage. It must not know connections: answers go to a `Sink`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol, cast

import structlog

from placement.modelspec import ModelFacts

from .admission import Admission
from .engine import Chunk, Engine, EngineRequest, Sampling
from .errors import EngineCrashed, EngineError, Refused
from .logs import where
from .needs import unmet
from .pulse import Pulse
from .text import Halves, StopScanner
from .wire import Answer, End, Failure, First, Open, Reject, Tokens

log = structlog.get_logger()

LONG_PROMPT = 4096
"""Characters above which a prompt is tokenised in a thread, so that running streams keep their pace."""

_SEED_MASK = 2**63 - 1

MOST_COUNTED = 2**32 - 1
"""Tokens of one request that can be told."""

LEAST_TEMPERATURE = 1e-5
"""Below it the likeliest token is taken: engines divide by the temperature in single precision."""

LEAST_TOP_P = 1e-6
"""Below it nothing but the likeliest token is left, and some engines refuse the value."""


class Sink(Protocol):
    """Where the answers to one request go; never blocks."""

    def deliver(self, answer: Answer) -> None:
        """Takes the next answer."""
        ...


class Detokenizer(Protocol):
    """Turns ids into text piece by piece; never emits half a character."""

    def push(self, ids: Sequence[int]) -> str:
        """The text that these ids make certain."""
        ...

    def finish(self) -> str:
        """What was held back."""
        ...


class Text(Protocol):
    """The text side of a model: chat template, tokenizer and their facts."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a text."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        ...

    @property
    def window(self) -> int:
        """Longest sequence in tokens that the model was trained for."""
        ...

    @property
    def facts(self) -> ModelFacts:
        """Figures of the model."""
        ...

    def chat_ids(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[int]:
        """The prompt of a chat; raises `Refused` for messages that the template cannot take."""
        ...

    def prompt_ids(self, text: str) -> Sequence[int]:
        """The ids of a plain prompt."""
        ...

    def detokenizer(self) -> Detokenizer:
        """A fresh one for one stream."""
        ...

    def word_ids(self) -> Sequence[int]:
        """Ids that decode to plain words."""
        ...


class Generation:
    """Answers one request; `run` delivers exactly one last answer unless it is cancelled.

    Args:
        pulse: is told what goes into the engine and what comes out.
        on_death: called when the engine turns out to be dead.
    """

    def __init__(
        self,
        request: Open,
        sink: Sink,
        *,
        engine: Engine,
        text: Text,
        window: int,
        admission: Admission,
        pulse: Pulse,
        on_death: Callable[[str], None],
    ) -> None:
        self._request = request
        self._sink = sink
        self._engine = engine
        self._text = text
        self._window = window
        self._admission = admission
        self._pulse = pulse
        self._on_death = on_death
        self._now = asyncio.get_running_loop().time

    async def run(self) -> Answer:
        """Answers; returns the last answer, for counting."""
        limit = asyncio.timeout(self._request.deadline_s)
        try:
            async with limit:
                last = await self._answer()
        except Refused as refused:
            last = Reject(refused.reason, refused.message, refused.param, refused.retry_after_s)
        except EngineCrashed as error:
            log.warning("engine.crashed", request=self._request.id, error=error.message)
            self._on_death(error.message)
            last = Failure("engine_crashed", "the engine of this replica ended", True)
        except EngineError as error:
            log.warning("generation.failed", request=self._request.id, error=error.message)
            last = Failure(
                "engine_error", "the engine could not answer this request", error.retryable
            )
        except Exception as error:  # noqa: BLE001 - whatever engines raise, time-outs of their own included
            last = _late(self._request.deadline_s) if limit.expired() else self._broken(error)
        self._sink.deliver(last)
        return last

    def _broken(self, error: Exception) -> Failure:
        """What the error says may hold the prompt, so it is not logged."""
        kind, places = type(error).__name__, where(error)
        log.error("generation.broken", request=self._request.id, error=kind, where=places)
        return Failure("internal_error", "the replica could not answer this request")

    async def _answer(self) -> Answer:
        self._require_able()
        ticket = self._admission.reserve()
        try:
            prompt = await self._prompt_ids()
            sampling = self._sampling(len(prompt))
            self._sink.deliver(First(prompt, sampling.max_tokens, sampling.seed))
            await ticket.turn()
            return await self._generate(prompt, sampling)
        finally:
            ticket.leave()

    def _require_able(self) -> None:
        """A router that knows this replica sends nothing of the kind; one that does not know it yet may."""
        need = unmet(self._request, self._engine.capabilities)
        if need is not None:
            raise Refused(
                f"`{need.param}`: the engine of this replica {need.says}",
                reason="unsupported_parameter",
                param=need.param,
            )

    async def _prompt_ids(self) -> tuple[int, ...]:
        """The prompt; empty for an engine that takes none as ids: it reads what the client wrote."""
        if not self._engine.capabilities.ids_in:
            return ()
        prompt = self._request.prompt
        if isinstance(prompt, list):
            return self._checked(prompt)
        if self._characters() > LONG_PROMPT:
            return await asyncio.to_thread(self._tokenise)
        return self._tokenise()

    def _characters(self) -> int:
        """Of what the client wrote: a bound on its tokens where nobody counts them."""
        return len(self._request.prompt or "") + _length(self._request.messages)

    def _tokenise(self) -> tuple[int, ...]:
        if self._request.messages is not None:
            return tuple(self._text.chat_ids(self._request.messages))
        return tuple(self._text.prompt_ids(cast("str", self._request.prompt)))

    def _checked(self, ids: list[int]) -> tuple[int, ...]:
        vocabulary = self._text.vocabulary
        for token in ids:
            if not 0 <= token < vocabulary:
                raise Refused(
                    f"token id {token} is not in the vocabulary of {vocabulary}", param="prompt"
                )
        return tuple(ids)

    def _sampling(self, prompt_tokens: int) -> Sampling:
        request = self._request
        param = "messages" if request.kind == "chat" else "prompt"
        if prompt_tokens == 0 and self._engine.capabilities.ids_in:
            raise Refused("the prompt is empty", param=param)
        room = self._window - prompt_tokens
        if room < 1:
            raise Refused(
                f"the model's window is {self._window} tokens, the prompt has {prompt_tokens}; "
                "shorten the prompt",
                reason="context_length_exceeded",
                param=param,
            )
        seed = secrets.randbits(31) if request.seed is None else request.seed & _SEED_MASK
        return Sampling(
            max_tokens=min(request.max_tokens or room, room),
            temperature=request.temperature if request.temperature >= LEAST_TEMPERATURE else 0.0,
            top_p=max(request.top_p, LEAST_TOP_P),
            seed=seed,
            ignore_eos=request.ignore_eos,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            json_schema=request.json_schema,
        )

    def _sequence(self, prompt: tuple[int, ...], sampling: Sampling) -> EngineRequest:
        request = self._request
        written = not self._engine.capabilities.ids_in
        text = request.prompt if isinstance(request.prompt, str) else None
        return EngineRequest(
            id=request.id,
            prompt_ids=prompt,
            sampling=sampling,
            messages=tuple(request.messages) if written and request.messages is not None else None,
            prompt=text if written else None,
            lora=request.lora,
        )

    async def _generate(self, prompt: tuple[int, ...], sampling: Sampling) -> Answer:
        chunks = cast(
            "AsyncGenerator[Chunk, None]", self._engine.generate(self._sequence(prompt, sampling))
        )
        pulse = self._pulse
        pulse.begins(self, len(prompt) or self._characters(), self._now())
        try:
            async with aclosing(chunks):
                return await self._transmit(chunks, len(prompt), sampling.max_tokens)
        except EngineError:  # that is an answer, too
            pulse.moves(self, self._now())
            raise
        finally:
            pulse.ends(self, self._now())

    async def _transmit(
        self, chunks: AsyncGenerator[Chunk, None], prompt_tokens: int, most: int
    ) -> Answer:
        transcript = Transcript(self._text.detokenizer(), self._request.stop)
        deliver, moves, now = self._sink.deliver, self._pulse.moves, self._now
        count = 0
        async for chunk in chunks:
            moves(self, now())
            if count + len(chunk.ids) > most and chunk.ids:  # the engine does not count
                chunk = Chunk(chunk.ids[: most - count], "length")
            count += len(chunk.ids) or bool(chunk.text)
            piece, stopped = transcript.push(chunk)
            deliver(Tokens(chunk.ids, piece))
            if stopped:
                return End("stop", prompt_tokens, count)
            if chunk.finish == "abort":
                return Failure("aborted", "the engine gave the request up", True)
            if chunk.finish is not None and chunk.usage is not None:
                return _end(chunk.finish, chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
            if chunk.finish is not None:
                return _end(chunk.finish, prompt_tokens, count)
        raise EngineError("the engine ended a sequence without a reason")


class Transcript:
    """The visible text of one stream: detokenised, cut at the first stop string."""

    def __init__(self, detokenizer: Detokenizer, stops: tuple[str, ...]) -> None:
        self._detokenizer = detokenizer
        self._halves = Halves()
        self._scanner = StopScanner(stops) if stops else None

    def push(self, chunk: Chunk) -> tuple[str, bool]:
        """The text that a chunk adds, all of the rest with the last chunk, and whether a stop string was met."""
        last = chunk.finish is not None
        if chunk.text is not None:
            piece = self._halves.push(chunk.text, last=last)
        else:
            piece = self._detokenizer.push(chunk.ids)
            if last:
                piece += self._detokenizer.finish()
        if self._scanner is None:
            return piece, False
        piece, stopped = self._scanner.push(piece)
        if last and not stopped:
            piece += self._scanner.finish()
        return piece, stopped


def _end(finish: Any, prompt_tokens: Any, completion_tokens: Any) -> End:
    """The end as an engine tells it, which may not be ours: a frame has room for counts of 32 bits and two reasons."""
    for count in (prompt_tokens, completion_tokens):
        if type(count) is not int or not 0 <= count <= MOST_COUNTED:
            raise EngineError(f"the engine counts {str(count)[:40]} tokens")
    if finish not in ("stop", "length"):
        raise EngineError(f"the engine ended a text with {str(finish)[:40]!r}")
    return End(finish, prompt_tokens, completion_tokens)


def _length(messages: list[dict[str, Any]] | None) -> int:
    return sum(len(str(message.get("content", ""))) for message in messages or ())


def _late(deadline_s: float) -> Failure:
    return Failure("deadline_exceeded", f"the answer was not complete after {deadline_s:.0f} s")
