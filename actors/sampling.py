"""Chooses next tokens from logits: greedy, or drawn with a temperature, a nucleus and penalties.

A draw depends on nothing but the seed, the token's position in its text and the logits. So a seeded text that is resumed
from its ids, or decoded in another batch, goes on as it would have. It must not know engines or how logits are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .engine import Sampling

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]

NOT_FINITE = -1
"""In place of an id: the logits have no maximum, so the model is broken for this sequence."""

_MASK = (1 << 64) - 1
_NUCLEUS = 1024
"""Most likely tokens that are sorted at first; hardly ever does a nucleus need more."""


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from two, by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

    >>> uniform(1, 0) == uniform(1, 0), uniform(1, 0) == uniform(1, 1)
    (True, False)
    """
    state = _mixed(_mixed(seed & _MASK) + position * 0x9E3779B97F4A7C15)
    return (state >> 11) * 2.0**-53


def _mixed(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Chooser:
    """How one sequence's next ids are chosen.

    Penalties count every id of the text so far, the prompt's too: only so is a resumed text penalised as the whole one.
    Ids that end a text are not penalised, as chat prompts are full of them.

    Args:
        ids: the text so far.
        free: ids that are never penalised.
    """

    __slots__ = ("_counts", "_free", "_sampling", "_vocab")

    def __init__(
        self, sampling: Sampling, vocab: int, ids: Iterable[int], free: Iterable[int] = ()
    ) -> None:
        self._sampling = sampling
        self._vocab = vocab
        self._free = frozenset(free)
        self._counts: dict[int, int] = {}
        if sampling.frequency_penalty or sampling.presence_penalty:
            for token in ids:
                self._count(token)

    @property
    def greedy(self) -> bool:
        """Whether it is just the most likely token."""
        given = self._sampling
        return given.temperature <= 0 and not (given.frequency_penalty or given.presence_penalty)

    def seen(self, token: int) -> None:
        """Takes note of a chosen id."""
        if self._sampling.frequency_penalty or self._sampling.presence_penalty:
            self._count(token)

    def _count(self, token: int) -> None:
        if token not in self._free:
            self._counts[token] = self._counts.get(token, 0) + 1

    def choose(self, logits: Floats, position: int) -> int:
        """The id at a position of the text, from the logits (one per token) for it; `NOT_FINITE` when there is none."""
        import numpy as np

        values = self._penalised(logits)
        best = int(values.argmax())
        if not np.isfinite(values[best]):
            return NOT_FINITE
        if self._sampling.temperature <= 0:
            return best
        weights = np.exp((values - values[best]) / self._sampling.temperature)
        ids = _nucleus(weights, self._sampling.top_p)
        # In order of ids, so that two tokens that change ranks by a rounding error change nothing else.
        sums = np.cumsum(weights if ids is None else weights[ids])
        place = int(
            np.searchsorted(sums, uniform(self._sampling.seed, position) * sums[-1], "right")
        )
        place = min(place, len(sums) - 1)
        return place if ids is None else int(ids[place])

    def _penalised(self, logits: Floats) -> Floats:
        import numpy as np

        values = logits.astype(np.float64)
        if self._counts:
            ids = np.fromiter(self._counts, np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float64, len(self._counts))
            given = self._sampling
            values[ids] -= given.frequency_penalty * counts + given.presence_penalty
        return values


def _nucleus(weights: Floats, top_p: float) -> np.ndarray[Any, Any] | None:
    """The fewest tokens that together have the share `top_p`, in order of ids; None = all of them."""
    import numpy as np

    if top_p >= 1:
        return None
    wanted = top_p * weights.sum()
    for size in (min(_NUCLEUS, len(weights)), len(weights)):
        ids = np.argpartition(weights, len(weights) - size)[len(weights) - size :]
        ids = ids[np.lexsort((ids, -weights[ids]))]
        reached = int(np.searchsorted(np.cumsum(weights[ids]), wanted, "left"))
        if reached < size:
            return np.sort(ids[: reached + 1])
    return None


def next_ids(logits: Floats, choosers: Sequence[Chooser], positions: Sequence[int]) -> list[int]:
    """The next id of each sequence.

    Args:
        logits: [sequences, vocabulary].
        positions: of the ids to choose, in their texts.

    Returns:
        Ids, or `NOT_FINITE`.
    """
    import numpy as np

    best = logits.argmax(axis=1)
    # argmax stops at a NaN and finds an infinity, so the maxima tell of any that matters.
    good = np.isfinite(logits[np.arange(len(best)), best])
    return [
        NOT_FINITE
        if not good[n]
        else int(best[n])
        if chooser.greedy
        else chooser.choose(logits[n], positions[n])
        for n, chooser in enumerate(choosers)
    ]
