"""How OpenAI-compatible servers deviate from each other, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a server's `/v1/completions` deviates from OpenAI's.

    Attributes:
        prompt_ids: it takes a prompt as token ids; else it is asked over `/v1/chat/completions` or with text.
        ids_switch: fields that make it tell the ids that it generates; empty = it never does.
        ids_field: field of a streamed choice that then holds the new ids.
        ignore_eos: it knows the field of that name.
        seed, penalties: it knows the fields.
        json_schema: template of the fields that hold it to a schema, with "{schema}" where the schema goes; empty = it cannot.
        extra: fields that are sent with every request.
        stop_ids: it knows `stop_token_ids`; then it is told every id that ends a text.
        dead: regular expression of an error message after which the server serves nobody any more; empty = there is none.
    """

    prompt_ids: bool = True
    ids_switch: Mapping[str, Any] | None = None
    ids_field: str = "token_ids"
    ignore_eos: bool = False
    seed: bool = True
    penalties: bool = True
    json_schema: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] | None = None
    stop_ids: bool = False
    dead: str = ""
