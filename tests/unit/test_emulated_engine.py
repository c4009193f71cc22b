"""The emulated engine: exact continuation, texts that end, and the pace of the cost model in virtual time."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from support.engines import (
    FACTS,
    VirtualClock,
    engine_config,
    engine_request,
    generated,
)

from actors.engine import Chunk, EngineRequest, Pace
from actors.engines.emulated import LONGEST, SHORTEST, Batch, EmulatedEngine
from actors.errors import EngineError, LoadFailed

PACE = Pace(fixed_s=0.01, per_sequence_s=0.001, prefill_tokens_per_s=1000.0, load_s=4.0)


async def loaded(clock: VirtualClock | None = None, **changes: object) -> EmulatedEngine:
    engine = EmulatedEngine(clock or VirtualClock())
    await engine.load(engine_config(**changes), lambda _: None)
    return engine


@pytest.mark.parametrize("words", [(), tuple(range(300, 1800)), tuple(range(50, 150)), (4, 9)])
async def test_a_text_goes_on_exactly_from_every_cut(words: tuple[int, ...]) -> None:
    engine = await loaded(word_ids=words, facts=FACTS)
    for prompt in ((11, 12, 13), (5,), tuple(range(1, 300))):
        whole, finish = await generated(engine, engine_request(prompt))
        assert finish == "stop"
        for cut in range(1, len(whole) + 1):
            rest, end = await generated(engine, engine_request(prompt + whole[:cut]))
            assert (rest, end) == (whole[cut:], "stop")


async def test_a_text_without_end_goes_on_exactly_too() -> None:
    engine = await loaded()
    whole, finish = await generated(engine, engine_request(max_tokens=600, ignore_eos=True))
    assert (len(whole), finish) == (600, "length")
    for cut in (1, 20, 199, 200, 201, 450):
        request = engine_request((11, 12, 13, *whole[:cut]), max_tokens=600 - cut, ignore_eos=True)
        assert await generated(engine, request) == (whole[cut:], "length")


async def test_texts_differ_end_by_themselves_and_vary_in_length() -> None:
    engine = await loaded()
    texts = [(await generated(engine, engine_request((n, 3)))) for n in range(60)]
    lengths = [len(ids) for ids, _ in texts]
    assert len({ids for ids, _ in texts}) > 45
    assert all(SHORTEST <= n <= LONGEST for n in lengths)
    assert max(lengths) - min(lengths) > 80
    assert all(300 <= n < 1800 for ids, _ in texts for n in ids)


async def test_most_tokens_and_window_end_a_text() -> None:
    engine = await loaded(window=30)
    assert await generated(engine, engine_request(max_tokens=1)) != ((), "stop")
    ids, finish = await generated(engine, engine_request(max_tokens=5))
    assert (len(ids), finish) == (5, "length")
    ids, finish = await generated(engine, engine_request(tuple(range(25)), ignore_eos=True))
    assert (len(ids), finish) == (5, "length")


@pytest.mark.parametrize(("prompt", "most"), [((), 5), (tuple(range(30)), 5), ((1,), 0)])
async def test_what_does_not_fit_is_an_error(prompt: tuple[int, ...], most: int) -> None:
    engine = await loaded(window=30)
    with pytest.raises(EngineError, match="do not fit"):
        await generated(engine, engine_request(prompt, max_tokens=most))


async def test_not_loaded_and_no_words() -> None:
    with pytest.raises(EngineError, match="not loaded"):
        await generated(EmulatedEngine(VirtualClock()), engine_request())
    with pytest.raises(LoadFailed, match="no words"):
        await loaded(word_ids=(), eos_ids=tuple(range(FACTS.vocab)))


async def test_loading_takes_the_predicted_time_with_progress() -> None:
    clock, seen = VirtualClock(), []
    engine = EmulatedEngine(clock)
    assert engine.health()
    await engine.load(engine_config(pace=PACE), lambda f: seen.append((clock.now(), f)))
    assert clock.now() == pytest.approx(4.0)
    assert seen[-1] == (pytest.approx(4.0), 1.0)
    assert all(t == pytest.approx(4.0 * f) for t, f in seen)
    assert not engine.health()


async def arrivals(
    engine: EmulatedEngine, clock: VirtualClock, request: EngineRequest
) -> list[tuple[float, Chunk]]:
    return [(clock.now(), chunk) async for chunk in engine.generate(request)]


async def test_one_sequence_keeps_the_pace() -> None:
    clock = VirtualClock()
    engine = await loaded(clock, pace=PACE)
    start = clock.now()
    seen = await arrivals(
        engine, clock, engine_request(tuple(range(100)), max_tokens=50, ignore_eos=True)
    )
    times = [t - start for t, chunk in seen for _ in chunk.ids]
    assert times == pytest.approx([0.1 + n * 0.011 for n in range(50)])


async def test_a_batch_shares_its_steps_and_serialises_prefills() -> None:
    clock = VirtualClock()
    engine = await loaded(clock, pace=PACE)
    start = clock.now()
    request = engine_request(tuple(range(100)), max_tokens=11, ignore_eos=True)
    seen = await asyncio.gather(*[arrivals(engine, clock, request) for _ in range(4)])
    firsts = sorted(rows[0][0] - start for rows in seen)
    assert firsts == pytest.approx([0.1, 0.2, 0.3, 0.4])
    lasts = {round(rows[-1][0] - start, 6) for rows in seen}
    assert lasts == {round(0.4 + 10 * 0.014, 6)}


async def test_more_than_fit_wait_in_order() -> None:
    clock = VirtualClock()
    engine = await loaded(clock, pace=PACE, max_sequences=1)
    request = engine_request((1,) * 10, max_tokens=2, ignore_eos=True)
    seen = await asyncio.gather(*[arrivals(engine, clock, request) for _ in range(3)])
    ends = [rows[-1][0] - 4.0 for rows in seen]
    assert ends == pytest.approx([0.021, 0.042, 0.063])


class LateClock(VirtualClock):
    """Somebody else holds the loop: each sleep returns half a second late."""

    async def sleep_until(self, when: float) -> None:
        await super().sleep_until(when + 0.5)


async def test_late_steps_come_together_and_the_pace_does_not_drift() -> None:
    clock = LateClock()
    engine = await loaded(clock, pace=PACE)
    start = clock.now()
    seen = await arrivals(engine, clock, engine_request((1,), max_tokens=1000, ignore_eos=True))
    assert len(seen) < 100
    assert sum(len(chunk.ids) for _, chunk in seen) == 1000
    assert clock.now() - start < 0.001 + 999 * 0.011 + 1.0


async def test_closing_the_iterator_frees_the_place() -> None:
    engine = await loaded(max_sequences=1)
    async with aclosing(engine.generate(engine_request(ignore_eos=True))) as chunks:
        await anext(chunks)
        assert (await engine.stats()).running == 1
    assert (await engine.stats()).running == 0
    assert (await generated(engine, engine_request()))[1] == "stop"


async def test_closing_the_engine_aborts_what_runs() -> None:
    engine = await loaded(pace=PACE)
    chunks = engine.generate(engine_request(ignore_eos=True))
    await anext(chunks)
    await engine.close()
    await engine.close()
    rest = [chunk async for chunk in chunks]
    assert rest[-1].finish == "abort"
    assert engine.health()


class BrokenClock(VirtualClock):
    """Works until it is broken."""

    broken = False

    async def sleep_until(self, when: float) -> None:
        if self.broken:
            raise OSError("no time")
        await super().sleep_until(when)


async def test_no_stream_waits_for_ever_when_pacing_fails() -> None:
    clock = BrokenClock()
    engine = await loaded(clock, pace=PACE)
    clock.broken = True
    assert await generated(engine, engine_request()) == ((), "abort")
    assert engine.health()


def test_stats_of_a_batch() -> None:
    batch = Batch(engine_config(max_sequences=2))
    for n in range(3):
        batch.add(n, (1, 2), engine_request().sampling)
    batch.step()
    batch.step()
    stats = batch.stats()
    assert (stats.running, stats.waiting, stats.kv_used_ratio) == (2, 1, 1.0)
    for n in range(3):
        batch.abort(n)
    batch.abort(77)
    assert not batch.busy()
    assert batch.stats().running == batch.stats().waiting == 0
