"""Renders a model's own chat template around text from users, so that this text never becomes a control token.

Decides how a conversation becomes runs of plain text and control tokens. It must not know how text is tokenised.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import ModelError, Refused

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
"""The roles that clients may send, and the name that templates know them by."""

_PRIVATE_USE = range(0xF0000, 0xFFFFE)

Message = Mapping[str, object]


class ControlTokens:
    """The strings that stand for control tokens, and how text from users is kept apart from them.

    Args:
        tokens: string -> id.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._ids = {text: number for text, number in tokens.items() if len(text) > 1}
        longest_first = sorted(self._ids, key=len, reverse=True)
        either = "|".join(map(re.escape, longest_first)) or r"(?!)"
        self._split = re.compile(f"({either})")
        # A look-ahead finds occurrences that overlap, too.
        self._starts = re.compile(f"(?s)(?=(?:{either}))(.)")
        cuts = [(text[:at], text[at:]) for text in self._ids for at in range(1, len(text))]
        self._heads = tuple({head for head, _ in cuts})
        self._tails = tuple({tail for _, tail in cuts})

    def guard(self, text: str, marker: str) -> str:
        """The text with a marker inside everything that is, or could become with its neighbours, a control token."""
        inner = any(text in control for control in self._ids) if text else False
        before = marker if inner or text.startswith(self._tails) else ""
        after = marker if text.endswith(self._heads) else ""
        return before + self._starts.sub(rf"\1{marker}", text) + after

    def runs(self, text: str) -> Iterator[str | int]:
        """The text as runs of plain text and ids of control tokens, in order."""
        for part in self._split.split(text):
            if part:
                yield self._ids.get(part, part)


class ChatTemplate:
    """One model's template, compiled once.

    Raises:
        ModelError: the template is not valid Jinja.
    """

    def __init__(self, source: str, control: ControlTokens, names: Mapping[str, str]) -> None:
        self._control = control
        functions = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self._context: dict[str, object] = {**names, **functions}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(
                f"the model's chat template is broken: {error}", hint="use another model file"
            ) from None

    def runs(self, messages: Sequence[Message]) -> Iterator[str | int]:
        """The conversation up to where the assistant speaks, as plain text and ids of control tokens.

        Raises:
            Refused: a message is not of the supported shape, or the template refuses the conversation.
        """
        plain = [_plain(message, at) for at, message in enumerate(messages)]
        marker = _unused_character([message["content"] for message in plain])
        guarded = [
            {**message, "content": self._control.guard(message["content"], marker)}
            for message in plain
        ]
        for run in self._control.runs(self._render(guarded)):
            yield run.replace(marker, "") if isinstance(run, str) else run

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **self._context
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise Refused(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from None


def encodable(text: str, param: str) -> str:
    """The text itself.

    Raises:
        Refused: it holds half of a surrogate pair, which no tokenizer can read.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(
            f"{param} holds a lone surrogate, which is not a character", param=param
        ) from None
    return text


def _plain(message: Message, at: int) -> dict[str, str]:
    """Role and text of a message as clients send it."""
    where = f"messages[{at}]"
    if not isinstance(message, Mapping):
        raise Refused(f"{where} is not an object", param=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        raise Refused(f"{where}.role is {role!r}, not one of {known}", param=f"{where}.role")
    text = _text(message.get("content"), f"{where}.content", optional=role == "assistant")
    return {"role": ROLES[role], "content": text}


def _text(content: object, where: str, *, optional: bool) -> str:
    if isinstance(content, str):
        return encodable(content, where)
    if content is None and optional:
        return ""
    if not isinstance(content, list):
        raise Refused(f"{where} is neither a string nor a list of parts", param=where)
    return "".join(encodable(_part(part, where), where) for part in content)


def _part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind != "text":
        raise Refused(
            f"{where} has a part of type {kind!r}; only text is supported",
            reason="unsupported_parameter",
            param=where,
        )
    if not isinstance(text, str):
        raise Refused(f"{where} has a text part without text", param=where)
    return text


def _unused_character(texts: Sequence[str]) -> str:
    """A private-use character that none of the texts has."""
    used = {c for text in texts if not text.isascii() for c in text}
    return next(chr(code) for code in _PRIVATE_USE if chr(code) not in used)


def _environment() -> ImmutableSandboxedEnvironment:
    extensions: list[type[Extension]] = [loopcontrols]
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=extensions
    )
    environment.filters["tojson"] = _tojson
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().astimezone().strftime(layout)


def _tojson(value: Any, indent: int | None = None, **_options: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
