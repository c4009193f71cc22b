"""Measures an engine: the rate of its prefill, and the line t(B) = fixed + per_sequence * B of its decode steps.

Decides which prompts are run, in which order, and how a line is laid through what was seen. Prompts never repeat, so that
no cache of prefixes answers for the hardware. It must not know devices, files or the cost model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import structlog

from .engine import Engine, EngineConfig, EngineRequest, Sampling
from .errors import EngineError

log = structlog.get_logger()

CALIBRATION_ROUND = "calibration.round"

BATCHES = (1, 2, 4, 8)
LOAD_DEADLINE_S = 300.0
PREFILL_TOKENS = 512
DECODE_PROMPT_TOKENS = 128
DECODE_TOKENS = 48
MOST_ROUNDS = 9
LEAST_UNCERTAINTY = 0.05
"""Two runs on a quiet machine already differ by this much."""
GRACE = 3.0
"""The first round is finished even beyond the budget, but not beyond this many budgets."""

_WARM_UP_TOKENS = 8
_STRIDE = 7919
"""A prime: ids of a prompt walk over the vocabulary."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What one round runs: a prefill of so many tokens, and decoding of so many at each batch size."""

    prefill_tokens: int = PREFILL_TOKENS
    prompt_tokens: int = DECODE_PROMPT_TOKENS
    decode_tokens: int = DECODE_TOKENS
    batches: tuple[int, ...] = BATCHES


THOROUGH = Course()
QUICK = Course(prefill_tokens=128, prompt_tokens=32, decode_tokens=12, batches=(1, 4))
"""For an engine that is wanted soon: two sizes settle a line, and one round of them takes seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one engine with one model did.

    Attributes:
        steps: batch -> median seconds of a decode step.
        uncertainty: relative: distance from the line, or spread over rounds where that is more.
        context: mean length of the sequences while they decoded.
    """

    prompt_tokens: int
    prefill_tokens_per_s: float
    token_s_fixed: float
    token_s_per_sequence: float
    steps: tuple[tuple[int, float], ...]
    uncertainty: float
    context: int
    rounds: int


async def measure(
    engine: Engine,
    config: EngineConfig,
    *,
    budget_s: float,
    clock: Clock,
    load_deadline_s: float = LOAD_DEADLINE_S,
) -> Measured:
    """Loads the engine, measures for about `budget_s`, and closes it whatever happens.

    Raises:
        EngineError: it does not load, fails a request, or is too slow for one round.
    """
    try:
        async with asyncio.timeout(load_deadline_s):
            await engine.load(config, lambda _: None)
        return await measure_loaded(engine, config, budget_s=budget_s, clock=clock)
    except TimeoutError:
        raise EngineError(
            f"engine {engine.name} did not load within {load_deadline_s:g} s",
            hint="measure on a machine that is less busy",
        ) from None
    finally:
        await engine.close()


async def measure_loaded(
    engine: Engine,
    config: EngineConfig,
    *,
    budget_s: float,
    clock: Clock,
    course: Course = THOROUGH,
) -> Measured:
    """Measures an engine that is loaded and has nothing else to do, for about `budget_s`; leaves it loaded.

    Raises:
        EngineError: it fails a request, or is too slow for one round.
    """
    try:
        async with asyncio.timeout(GRACE * budget_s):
            return await _Bench(engine, config, clock, course).measure(budget_s)
    except TimeoutError:
        raise EngineError(
            f"engine {engine.name} did not finish one round within {GRACE * budget_s:g} s",
            hint="raise --budget-s, or measure on a machine that is less busy",
        ) from None


class _Bench:
    def __init__(self, engine: Engine, config: EngineConfig, clock: Clock, course: Course) -> None:
        self._engine = engine
        self._config = config
        self._clock = clock
        self._prompts = 0
        self._decode_tokens = min(course.decode_tokens, config.window // 2)
        self._prompt_tokens = min(course.prefill_tokens, config.window // 2)
        self._short_prompt = min(course.prompt_tokens, config.window // 4)
        self._prefills: list[float] = []
        self._steps: dict[int, list[float]] = {
            batch: [] for batch in course.batches if batch <= config.max_sequences
        }

    async def measure(self, budget_s: float) -> Measured:
        await self._stream(self._short_prompt, _WARM_UP_TOKENS)
        began = self._clock()
        for turn in range(1, MOST_ROUNDS + 1):
            await self._round()
            used = self._clock() - began
            log.info(CALIBRATION_ROUND, engine=self._engine.name, round=turn, seconds=used)
            if used * (turn + 1) / turn > budget_s:
                break
        return self._measured()

    async def _round(self) -> None:
        began = self._clock()
        arrivals = await self._stream(self._prompt_tokens, 1)
        self._prefills.append(arrivals[0][0] - began)
        for batch, seen in self._steps.items():
            streams = await asyncio.gather(
                *(self._stream(self._short_prompt, self._decode_tokens) for _ in range(batch))
            )
            seen.append(step_s(streams))

    async def _stream(self, prompt: int, tokens: int) -> list[tuple[float, int]]:
        """When how many ids came."""
        sampling = Sampling(max_tokens=tokens, ignore_eos=True)
        request = EngineRequest(
            id=f"calibrate-{self._prompts}", prompt_ids=self._prompt(prompt), sampling=sampling
        )
        arrivals = [
            (self._clock(), len(chunk.ids))
            async for chunk in self._engine.generate(request)
            if chunk.ids
        ]
        if not arrivals:
            raise EngineError(f"engine {self._engine.name} gave no token for a prompt of {prompt}")
        return arrivals

    def _prompt(self, length: int) -> tuple[int, ...]:
        """Ids from the middle of the vocabulary: control tokens lie at its ends."""
        self._prompts += 1
        vocab = self._config.facts.vocab
        first, span = vocab // 4, max(vocab // 2, 1)
        return tuple(
            first + (self._prompts * (k + 1) * _STRIDE + self._prompts) % span
            for k in range(length)
        )

    def _measured(self) -> Measured:
        steps = {batch: median(seen) for batch, seen in self._steps.items()}
        fixed, slope = fit(steps)
        # The prefill ends with its first token; the cost model counts one decode step for that.
        first = median(self._prefills)
        prefill = max(first - fixed - slope, first / 2)
        return Measured(
            prompt_tokens=self._prompt_tokens,
            prefill_tokens_per_s=self._prompt_tokens / prefill,
            token_s_fixed=fixed,
            token_s_per_sequence=slope,
            steps=tuple(steps.items()),
            uncertainty=self._uncertainty(steps, fixed, slope),
            context=self._short_prompt + self._decode_tokens // 2,
            rounds=len(self._prefills),
        )

    def _uncertainty(self, steps: Mapping[int, float], fixed: float, slope: float) -> float:
        off = max(abs((fixed + slope * batch) / seconds - 1) for batch, seconds in steps.items())
        spreads = [_spread(seen) for seen in (*self._steps.values(), self._prefills)]
        return round(max(LEAST_UNCERTAINTY, off, median(spreads)), 3)


def step_s(streams: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Seconds of one decode step while all streams were decoding: (time, ids) pairs of each stream in.

    >>> step_s([[(1.0, 1), (1.5, 1), (2.0, 1)], [(1.0, 1), (1.5, 1), (2.0, 1)]])
    0.5
    """
    began = max(stream[0][0] for stream in streams)
    ended = min(stream[-1][0] for stream in streams)
    tokens = sum(n for stream in streams for when, n in stream if began < when <= ended)
    if ended <= began or not tokens:
        raise EngineError(
            f"{len(streams)} sequences never decoded together",
            hint="raise the concurrency of the engine, or measure on a machine that is less busy",
        )
    return (ended - began) * len(streams) / tokens


def fit(steps: Mapping[int, float]) -> tuple[float, float]:
    """Fixed and per-sequence seconds of the line through (batch, seconds), least squares of relative errors, never negative.

    >>> fit({1: 1.5, 2: 2.0, 4: 3.0})
    (1.0, 0.5)
    """
    if len(steps) == 1:
        return next(iter(steps.values())), 0.0
    weights = {batch: 1 / seconds**2 for batch, seconds in steps.items()}
    total = sum(weights.values())
    mean_batch = sum(w * b for b, w in weights.items()) / total
    mean = sum(weights[b] * t for b, t in steps.items()) / total
    around = sum(w * (b - mean_batch) ** 2 for b, w in weights.items())
    slope = sum(weights[b] * (b - mean_batch) * (t - mean) for b, t in steps.items()) / around
    if slope < 0:
        return mean, 0.0
    fixed = mean - slope * mean_batch
    if fixed < 0:
        return 0.0, mean / mean_batch
    return round(fixed, 9), round(slope, 9)


def _spread(seen: Sequence[float]) -> float:
    """Half the range over the median."""
    return (max(seen) - min(seen)) / 2 / median(seen)
