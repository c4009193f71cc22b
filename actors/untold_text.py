"""The text side of a model that only an endpoint knows: no tokenizer, no template, no figures.

Its engine takes what clients wrote and gives text back. It must not know endpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from placement.modelspec import ModelFacts
from placement.remote import UNKNOWN_FACTS

from .errors import Refused


class UntoldText:
    """See `actors.generation.Text`. Nothing here can be tokenised.

    Args:
        window: longest sequence in tokens that the spec asks for; how the endpoint counts is its own affair.
        facts: of the model as a spec tells them; None = nothing is known.
    """

    eos_ids: tuple[int, ...] = ()

    def __init__(self, window: int, facts: ModelFacts | None = None) -> None:
        self.facts = facts or UNKNOWN_FACTS
        self.vocabulary = self.facts.vocab
        self.window = window

    def chat_ids(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[int]:
        """Always refused."""
        del messages
        raise _untold("messages")

    def prompt_ids(self, text: str) -> Sequence[int]:
        """Always refused."""
        del text
        raise _untold("prompt")

    def detokenizer(self) -> SilentDetokenizer:
        """One that has nothing to say: the engine gives text."""
        return SilentDetokenizer()

    def word_ids(self) -> Sequence[int]:
        """None."""
        return ()


class SilentDetokenizer:
    """Turns ids that nobody can read into nothing."""

    def push(self, ids: Sequence[int]) -> str:
        """Always empty."""
        del ids
        return ""

    def finish(self) -> str:
        """Always empty."""
        return ""


def _untold(param: str) -> Refused:
    return Refused(
        "the model's tokenizer is not known here",
        hint="give the model's `tokenizer` in the spec",
        param=param,
    )
