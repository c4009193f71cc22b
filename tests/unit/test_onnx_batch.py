"""Who runs when and where, with a decoder that only writes down what it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.engine import Sampling
from actors.slot_batch import BATCHED_TOKENS, Batch

VOCAB = 50
EOS = 2


class CountingDecoder:
    """The next id is the sum of the row's ids modulo the vocabulary; id 40 makes its row's logits NaN.

    It keeps what each slot's cache would hold, so a row that finds another's ids there goes wrong.
    """

    def __init__(self, slots: int, window: int) -> None:
        self.calls: list[tuple[int, int, int]] = []
        self.cache = np.full((slots, window), -1)

    def run(
        self, low: int, ids: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        rows, tokens = ids.shape
        self.calls.append((low, rows, tokens))
        logits = np.zeros((rows, VOCAB), np.float32)
        for n in range(rows):
            end = int(lengths[n])
            self.cache[low + n, end - tokens : end] = ids[n]
            logits[n, self.cache[low + n, :end].sum() % VOCAB] = 1.0
            if ids[n, -1] == 40:
                logits[n] = np.nan
        return logits


class Cache:
    def __init__(self, decoder: CountingDecoder, *, movable: bool) -> None:
        self.movable = movable
        self.moves: list[tuple[int, int]] = []
        self._decoder = decoder

    def bind(self, binding: Any, low: int, high: int) -> None:
        raise AssertionError("the batch binds nothing")

    def move(self, source: int, target: int, tokens: int) -> None:
        self.moves.append((source, target))
        self._decoder.cache[target, :tokens] = self._decoder.cache[source, :tokens]

    def freed(self, slot: int, tokens: int) -> None:
        self._decoder.cache[slot] = -1


class Lab:
    def __init__(
        self, *, slots: int = 4, window: int = 1000, movable: bool = True, budget: int = 10**6
    ):
        self.decoder = CountingDecoder(slots, window)
        self.cache = Cache(self.decoder, movable=movable)
        self.batch = Batch(
            self.decoder, self.cache, slots=slots, window=window, budget_tokens=budget,
            vocab=VOCAB, eos_ids=(EOS,),
        )  # fmt: skip
        self.texts: dict[int, list[int]] = {}
        self.ends: dict[int, str] = {}

    def add(self, number: int, prompt: tuple[int, ...], most: int = 20, **sampling: Any) -> None:
        self.texts[number] = []
        given = {"max_tokens": most, "ignore_eos": True} | sampling
        self.batch.add(number, prompt, Sampling(**given))

    def step(self) -> set[int]:
        rows = self.batch.step()
        for row in rows:
            self.texts[row.sequence] += row.ids
            if row.finish or row.error:
                self.ends[row.sequence] = row.finish or row.error
        return {row.sequence for row in rows}

    def run(self) -> None:
        for _ in range(5000):
            if not self.batch.busy():
                return
            self.step()
        raise AssertionError("it never ends")


PROMPTS = [tuple((7 * n + k) % 39 + 3 for k in range(3 + 5 * n)) for n in range(12)]


@pytest.mark.parametrize("movable", [True, False])
def test_texts_do_not_depend_on_their_company(movable: bool) -> None:
    alone = {}
    for n, prompt in enumerate(PROMPTS):
        lab = Lab(movable=movable)
        lab.add(n, prompt, most=5 + n)
        lab.run()
        alone[n] = lab.texts[n]
    lab = Lab(movable=movable)
    for n, prompt in enumerate(PROMPTS):
        lab.add(n, prompt, most=5 + n)
    lab.run()
    assert lab.texts == alone
    assert set(lab.ends) == set(range(12))
    assert bool(lab.cache.moves) == movable


@pytest.mark.parametrize("movable", [True, False])
def test_sequences_that_leave_and_join_at_any_step_disturb_nobody(movable: bool) -> None:
    random = np.random.default_rng(5)
    lab = Lab(slots=5, movable=movable)
    prompts = {}
    dropped: set[int] = set()
    for n in range(120):
        prompts[n] = tuple(int(x) for x in random.integers(3, 39, int(random.integers(1, 600))))
        lab.add(n, prompts[n], most=int(random.integers(1, 30)))
        for _ in range(int(random.integers(0, 4))):
            lab.step()
        if random.random() < 0.3:
            victim = int(random.integers(0, n + 1))
            if victim not in lab.ends:
                lab.batch.abort(victim)
                dropped.add(victim)
    lab.run()
    stats = lab.batch.stats()
    assert (stats.running, stats.waiting, stats.kv_used_ratio) == (0, 0, 0.0)
    for n in set(prompts) - dropped:
        alone = Lab()
        alone.add(n, prompts[n], most=len(lab.texts[n]) or 1)
        alone.run()
        assert lab.texts[n] == alone.texts[n]


def test_runners_stay_together_where_contents_move() -> None:
    lab = Lab(slots=4)
    for n in range(4):
        lab.add(n, PROMPTS[n], most=100)
    lab.step()
    lab.batch.abort(1)
    lab.batch.abort(0)
    lab.decoder.calls.clear()
    lab.step()
    assert lab.decoder.calls == [(0, 2, 1)]
    assert lab.cache.moves == [(3, 1), (2, 0)]


def test_a_hole_is_used_again_where_they_do_not() -> None:
    lab = Lab(slots=4, movable=False)
    for n in range(3):
        lab.add(n, PROMPTS[n], most=100)
    lab.step()
    lab.batch.abort(1)
    lab.decoder.calls.clear()
    lab.step()
    assert lab.decoder.calls == [(0, 3, 1)]
    lab.add(9, PROMPTS[9], most=100)
    lab.step()
    assert lab.decoder.calls[-1] == (1, 1, len(PROMPTS[9]))


def test_an_aborted_sequence_makes_room_for_the_next_step() -> None:
    lab = Lab(slots=2)
    for n in range(3):
        lab.add(n, PROMPTS[n], most=1000)
    assert lab.step() == {0, 1}
    assert lab.step() == {0, 1}
    lab.batch.abort(0)
    assert lab.step() == {1, 2}
    lab.batch.abort(77)
    lab.batch.abort(1)
    lab.batch.abort(2)
    assert not lab.batch.busy()


def test_a_long_prompt_holds_nobody_up_for_more_than_a_part() -> None:
    lab = Lab(window=5000)
    lab.add(0, PROMPTS[0], most=1000)
    lab.step()
    lab.add(1, (5,) * 2000, most=5)
    lab.decoder.calls.clear()
    steps = 0
    while 1 not in lab.step():
        steps += 1
        read = sum(tokens for _, _, tokens in lab.decoder.calls if tokens > 1)
        assert read <= BATCHED_TOKENS
        lab.decoder.calls.clear()
        assert len(lab.texts[0]) == 1 + steps
    assert steps == 2000 // BATCHED_TOKENS


def test_an_abort_in_the_middle_of_a_prompt_frees_its_place() -> None:
    lab = Lab(slots=1, window=5000)
    lab.add(0, (5,) * 2000, most=5)
    lab.step()
    lab.batch.abort(0)
    lab.add(1, PROMPTS[1], most=5)
    assert lab.step() == {1}


def test_short_prompts_share_a_step_and_long_ones_keep_their_parts() -> None:
    lab = Lab(window=2000)
    for n, tokens in enumerate((100, 100, 300)):
        lab.add(n, (5,) * tokens, most=50)
    assert lab.step() == {0, 1}
    lab.decoder.calls.clear()
    lab.step()
    lab.step()
    assert [tokens for _, _, tokens in lab.decoder.calls if tokens > 1] == [256, 44]


def test_the_cache_is_never_promised_twice() -> None:
    lab = Lab(budget=300, window=200)
    for n in range(3):
        lab.add(n, (5,) * 100, most=40)
    lab.step()
    stats = lab.batch.stats()
    assert (stats.running, stats.waiting) == (2, 1)
    assert stats.kv_used_ratio == pytest.approx(280 / 300)
    lab.run()
    assert set(lab.ends) == {0, 1, 2}


def test_one_sequence_may_run_whatever_the_budget() -> None:
    lab = Lab(budget=0, window=200)
    for n in range(2):
        lab.add(n, (5,) * 100, most=50)
    lab.run()
    assert [len(lab.texts[n]) for n in range(2)] == [50, 50]


def test_logits_that_are_not_finite_end_their_sequence_alone() -> None:
    lab = Lab()
    lab.add(0, (5, 6), most=10)
    lab.add(1, (5, 40), most=10)
    lab.run()
    assert lab.ends[0] == "length"
    assert "not finite" in lab.ends[1]
    assert lab.texts[1] == []


def test_a_text_ends_without_its_end_id() -> None:
    lab = Lab()
    lab.add(0, (30, 22), most=10, ignore_eos=False)
    lab.add(1, (30, 22), most=3)
    lab.run()
    assert (lab.texts[0], lab.ends[0]) == ([], "stop")
    assert (lab.texts[1][0], lab.ends[1]) == (EOS, "length")


def test_a_text_ends_with_the_window() -> None:
    lab = Lab(window=64)
    lab.add(0, (5,) * 60, most=10**9)
    lab.run()
    assert (len(lab.texts[0]), lab.ends[0]) == (4, "length")
