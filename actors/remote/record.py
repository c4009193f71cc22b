"""What is known of an endpoint from the requests that went there: its speed, its cost, and whether it is well.

Decides which failures speak against the endpoint and when they are too many. It must not know how it is reached.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..engine import Chunk
from ..errors import EngineError

FAILURES_IN_A_ROW = 5
"""After as many, an endpoint counts as ill; one whole answer makes it well."""
LONGEST_PAUSE_S = 60.0
CHARACTERS_PER_TOKEN = 64
_SPARE_CHARACTERS = 4096
_WEIGHT = 0.2
"""Of the newest figure in a moving average."""
_ABOUT_THE_REQUEST = (400, 413, 415, 422)


class RemoteFailed(EngineError):
    """The endpoint failed, not the request: another replica may answer it."""

    code = "engine.remote"
    retryable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What an endpoint was seen to do. 0 = not seen yet.

    Attributes:
        answers: requests that were answered whole.
        ttft_s: seconds to the first token, moving average.
        tokens_per_s: of one sequence after its first token, moving average.
        tokens: output tokens so far.
        cost: of these, in the currency of the declared price.
    """

    answers: int = 0
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0
    tokens: int = 0
    cost: float = 0.0


class Record:
    """Keeps the figures of one endpoint.

    Args:
        price_per_million_tokens: of output.
    """

    def __init__(self, price_per_million_tokens: float = 0.0) -> None:
        self._price = price_per_million_tokens / 1e6
        self._answers = self._tokens = 0
        self._ttft_s = self._tokens_per_s = 0.0
        self._failures = 0
        self._reason = ""
        self._paused_until = 0.0

    def answered(self, ttft_s: float, tokens: int, rest_s: float) -> None:
        """A whole answer: seconds to its first token, its tokens, seconds from the first token to the last."""
        self._failures, self._reason = 0, ""
        self._answers += 1
        self._tokens += tokens
        self._ttft_s = _moved(self._ttft_s, ttft_s)
        if tokens > 1 and rest_s > 0:
            self._tokens_per_s = _moved(self._tokens_per_s, (tokens - 1) / rest_s)

    def failed(self, error: EngineError, now: float) -> EngineError:
        """Notes a failure; the error as callers should see it.

        Args:
            now: seconds of a clock that never goes back.
        """
        status = error.fields.get("status")
        if status in _ABOUT_THE_REQUEST:
            return error
        if status == 429:
            wait_s = min(error.fields.get("retry_after_s") or 0.0, LONGEST_PAUSE_S)
            self._paused_until = now + wait_s
        else:
            self._failures += 1
            self._reason = error.message
        return RemoteFailed(error.message, hint=error.hint, **error.fields)

    def pause_s(self, now: float) -> float:
        """Seconds for which the endpoint asked to be left alone."""
        return max(0.0, self._paused_until - now)

    def illness(self) -> str:
        """Why the endpoint counts as ill; empty while it is well."""
        if self._failures < FAILURES_IN_A_ROW:
            return ""
        return f"{self._failures} requests in a row failed; the last one: {self._reason}"

    def observed(self) -> Observed:
        """The figures so far."""
        return Observed(
            answers=self._answers,
            ttft_s=self._ttft_s,
            tokens_per_s=self._tokens_per_s,
            tokens=self._tokens,
            cost=self._tokens * self._price,
        )


class Watch:
    """Follows one answer: when its tokens came, and that they do not exceed what was asked."""

    __slots__ = ("_began", "_characters", "_last", "_most", "_start", "tokens")

    def __init__(self, max_tokens: int, now: float) -> None:
        self._start = self._began = self._last = now
        self._most = CHARACTERS_PER_TOKEN * max_tokens + _SPARE_CHARACTERS
        self._characters = 0
        self.tokens = 0

    def saw(self, chunk: Chunk, now: float) -> None:
        """One more chunk.

        Raises:
            EngineError: the text is far longer than the tokens asked for can be.
        """
        self._last = now
        if not self.tokens:
            self._began = self._last
        self.tokens += len(chunk.ids) or bool(chunk.text)
        self._characters += len(chunk.text or "")
        if self._characters > self._most:
            raise EngineError(f"it sent more than {self._most} characters")

    @property
    def began(self) -> bool:
        """Whether a token has come."""
        return self.tokens > 0

    @property
    def ttft_s(self) -> float:
        """Seconds from the request to its first token."""
        return self._began - self._start

    @property
    def rest_s(self) -> float:
        """Seconds from the first token to the last."""
        return self._last - self._began


def _moved(before: float, seen: float) -> float:
    return seen if before == 0.0 else before + _WEIGHT * (seen - before)
