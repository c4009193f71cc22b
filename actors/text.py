"""Text to token ids and back, exactly as the model was trained for.

Decides tokenisation, prompts and what of a text may be sent yet. It must not know engines, requests or sampling.
Text from users never becomes control tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from placement.modelspec import ModelFacts

from .chat_template import ChatTemplate, ControlTokens, Message, encodable
from .errors import Refused
from .vocabulary import Vocabulary, gguf_vocabulary, hf_vocabulary

MOST_WORDS = 4096

_WORD = re.compile(rb" [A-Za-z]{2,}")
_HALF = re.compile("[\ud800-\udfff]")


class TextModel:
    """The text side of one model: tokenizer, chat template, window. Safe to use from several threads.

    Attributes:
        eos_ids: ids that end a text.
        vocabulary: number of token ids.
        window: longest sequence in tokens that the model was trained for.
    """

    def __init__(self, vocabulary: Vocabulary, facts: ModelFacts) -> None:
        self.facts = facts
        self.window = facts.window
        self.vocabulary = facts.vocab
        self.eos_ids = vocabulary.eos_ids
        self._bos_ids = vocabulary.bos_ids
        self._tokenizer: Tokenizer = vocabulary.tokenizer
        self._pieces = vocabulary.pieces
        self._strip_first_space = vocabulary.strip_first_space
        self._template = _template(vocabulary)

    @classmethod
    def load(cls, path: str | Path) -> TextModel:
        """From a GGUF file, or a Hugging Face directory with `tokenizer.json`.

        Raises:
            ModelError: there is no tokenizer, or one of a kind that is not supported.
        """
        path = Path(path)
        vocabulary, facts = hf_vocabulary(path) if path.is_dir() else gguf_vocabulary(path)
        return cls(vocabulary, facts)

    def chat_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt of a conversation, as the model's chat template writes it.

        Args:
            messages: as in the OpenAI API: role, and content as a string or a list of text parts.

        Raises:
            Refused: a message has another shape, or the template refuses the conversation.
        """
        if self._template is None:
            raise Refused(
                "the model has no chat template", hint="use /v1/completions", param="messages"
            )
        ids: list[int] = []
        for run in self._template.runs(messages):
            if isinstance(run, int):
                ids.append(run)
            else:
                ids += self._encode(run)
        return tuple(ids)

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """The ids of a raw prompt, with the model's first token when it wants one.

        Raises:
            Refused: the text holds half of a surrogate pair.
        """
        return (*self._bos_ids, *self._encode(encodable(text, "prompt")))

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def detokenizer(self) -> Detokenizer:
        """A new one, for one text."""
        return Detokenizer(self._pieces, strip_first_space=self._strip_first_space)

    def word_ids(self) -> tuple[int, ...]:
        """Ids that read as a plain ASCII word after a space, in rising order, at most `MOST_WORDS`."""
        return self._words

    @cached_property
    def _words(self) -> tuple[int, ...]:
        words = (n for n, piece in enumerate(self._pieces) if _WORD.fullmatch(piece))
        return tuple(n for _, n in zip(range(MOST_WORDS), words, strict=False))


def _template(vocabulary: Vocabulary) -> ChatTemplate | None:
    if not vocabulary.chat_template:
        return None
    control = ControlTokens(vocabulary.control)
    return ChatTemplate(vocabulary.chat_template, control, vocabulary.names)


class Detokenizer:
    """Turns the ids of one text into characters as they arrive; never half a character."""

    def __init__(self, pieces: Sequence[bytes], *, strip_first_space: bool = False) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip = strip_first_space

    def push(self, ids: Iterable[int]) -> str:
        """The text that these ids complete. Ids outside the vocabulary and control tokens are silent."""
        pieces, end = self._pieces, len(self._pieces)
        data = b"".join([pieces[n] for n in ids if 0 <= n < end])
        if self._strip and data:
            self._strip = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What is left: a replacement character for a character that was never completed."""
        return self._decoder.decode(b"", final=True)


class Halves:
    """Joins characters beyond the first 65536 that a JSON text names by two halves, also where it is cut between them."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str, *, last: bool = False) -> str:
        """The text with whole characters only; a half that stays alone becomes the replacement character."""
        text = self._held + text
        self._held = ""
        if not _HALF.search(text):
            return text
        if not last and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class StopScanner:
    """Cuts a text at the first stop string and holds back what may be the beginning of one."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What may be sent now, and whether a stop string was met; it is not part of the text, nor is what follows."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = self._beginning(text)
        self._held = text[keep:]
        return text[:keep], False

    def _beginning(self, text: str) -> int:
        """Where the longest end of the text that begins a stop string starts."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stops):
                return at
        return len(text)

    def finish(self) -> str:
        """What was held back, when the text ended without a stop string."""
        held, self._held = self._held, ""
        return held
