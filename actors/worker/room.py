"""Whether a sequence fits a window and a vocabulary: no native library of ours guards either, and all must refuse alike."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine import Sampling
from ..errors import EngineError


def room_for(prompt_ids: Sequence[int], sampling: Sampling, *, window: int, vocab: int) -> int:
    """Tokens that may be generated: as many as are asked for, at most what the prompt leaves of the window.

    Raises:
        EngineError: there is no prompt or no room, or an id is not in the vocabulary.

    >>> room_for([1, 2], Sampling(max_tokens=9), window=8, vocab=3)
    6
    """
    room = window - len(prompt_ids)
    if not prompt_ids or room < 1 or sampling.max_tokens < 1:
        raise EngineError(
            f"{len(prompt_ids)} prompt tokens and {sampling.max_tokens} more do not fit"
            f" a window of {window}"
        )
    wrong = next((n for n in (min(prompt_ids), max(prompt_ids)) if not 0 <= n < vocab), None)
    if wrong is not None:
        raise EngineError(f"token id {wrong} is not in the vocabulary of {vocab}")
    return min(sampling.max_tokens, room)
