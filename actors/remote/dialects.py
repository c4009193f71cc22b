"""What kinds of OpenAI-compatible servers there are: how each one is recognised, and what it can be asked.

Decides by what a server's list of models says of itself. Nothing is claimed that a kind does not always do. It must not know
endpoints, nor ask any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..openai.body import CHAT
from ..openai.dialect import Dialect
from ..readers.remote_entries import DialectName

LEAST_TEXT_TOKENS = 16
_FORMAT = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": "{schema}"},
    }
}


def _text(
    *, seed: bool = True, json_schema: Mapping[str, Any] | None = None, ignore_eos: bool = False
) -> Dialect:
    return Dialect(prompt_ids=False, seed=seed, json_schema=json_schema, ignore_eos=ignore_eos)


DIALECTS: Mapping[DialectName, Dialect] = MappingProxyType(
    {
        "openai": _text(seed=False, json_schema=_FORMAT),
        "vllm": _text(json_schema=_FORMAT, ignore_eos=True),
        "llamacpp": _text(json_schema={"json_schema": "{schema}"}, ignore_eos=True),
        "sglang": _text(json_schema=_FORMAT, ignore_eos=True),
        "trtllm": _text(ignore_eos=True),
        "ovms": _text(ignore_eos=True),
        "shardyard": _text(ignore_eos=True),
    }
)
"""How each kind is asked in words. OpenAI's seed is a best effort only, and so counts as none."""

IDS: Mapping[DialectName, Dialect] = MappingProxyType(
    {
        "vllm": Dialect(
            ids_switch={"return_token_ids": True},
            ignore_eos=True,
            json_schema={"structured_outputs": {"json": "{schema}"}},
        )
    }
)
"""How those are asked that take and tell token ids."""

_OWNERS: Mapping[str, DialectName] = {
    "vllm": "vllm",
    "llamacpp": "llamacpp",
    "sglang": "sglang",
    "tensorrt_llm": "trtllm",
    "ovms": "ovms",
    "shardyard": "shardyard",
}
_OPENAI_ITSELF = ("openai", "system", "openai-internal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A model as an endpoint lists it.

    Attributes:
        window: its longest sequence in tokens; 0 = not told.
        kind: of the server; `openai` where it says nothing that is known.
        hosted: the list is OpenAI's own.
    """

    name: str
    window: int
    kind: DialectName
    hosted: bool


def offered(document: Any) -> dict[str, Offered]:
    """The models of a list as `GET /models` answers it, by name; empty when it is no such list.

    >>> list(offered({"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]}).values())
    [Offered(name='m', window=4096, kind='vllm', hosted=False)]
    """
    rows = document.get("data") if isinstance(document, Mapping) else None
    named = [row for row in rows if _is_named(row)] if isinstance(rows, list) else []
    return {row["id"]: _offered(row) for row in named}


def _is_named(row: Any) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("id"), str) and bool(row["id"])


def _offered(row: Mapping[str, Any]) -> Offered:
    owner = str(row.get("owned_by") or "").lower()
    window = row.get("max_model_len")
    return Offered(
        name=row["id"],
        window=window if type(window) is int and window > 0 else 0,
        kind=_OWNERS.get(owner, "openai"),
        hosted=owner in _OPENAI_ITSELF,
    )


def amend(path: str, body: dict[str, Any], *, window: int, hosted: bool) -> None:
    """Takes out of a question in words what the client did not ask for, as not every server takes it.

    A client that names no number of tokens gets what the endpoint gives by itself; of a plain text, which would then end after
    16 tokens, as many as fit for sure, since a token has at least one byte.
    """
    for name in ("temperature", "top_p"):
        if body.get(name) == 1.0:
            del body[name]
    unlimited = body["max_tokens"] >= window > 0
    if path == CHAT and unlimited:
        del body["max_tokens"]
    elif unlimited and isinstance(body.get("prompt"), str):
        room = window - len(body["prompt"].encode())
        body["max_tokens"] = max(LEAST_TEXT_TOKENS, room)
    if hosted and path == CHAT and "max_tokens" in body:
        body["max_completion_tokens"] = body.pop("max_tokens")
