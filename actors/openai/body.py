"""The body of a request to an OpenAI-compatible server.

Decides which route and which fields say what a request asks; what the dialect cannot say is an error, never left out in silence,
except `ignore_eos`, which only measurements use, and the seed of a greedy text, which changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..engine import EngineRequest, Sampling
from ..errors import EngineError
from .dialect import Dialect

COMPLETIONS, CHAT = "/completions", "/chat/completions"
_LARGEST_SEED = 2**63 - 1


def request_body(
    request: EngineRequest,
    dialect: Dialect,
    model: str,
    *,
    window: int = 0,
    eos_ids: tuple[int, ...] = (),
) -> tuple[str, dict[str, Any]]:
    """Route (below the version) and body; always streamed, with `max_tokens` clamped to the window.

    Raises:
        EngineError: the request asks for what the dialect cannot say, or does not fit the window.
    """
    sampling = request.sampling
    path, asked = _question(request, dialect)
    switch = dialect.ids_switch if path == COMPLETIONS else None
    body = {
        "model": request.lora or model,
        **asked,
        "max_tokens": _room(request, window),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
        **_options(sampling, dialect),
        **({"stream_options": {"include_usage": True}} if switch is None else switch),
        **(dialect.extra or {}),
    }
    if dialect.stop_ids and eos_ids and not sampling.ignore_eos:
        body["stop_token_ids"] = list(eos_ids)
    return path, body


def _question(request: EngineRequest, dialect: Dialect) -> tuple[str, dict[str, Any]]:
    if dialect.prompt_ids and request.prompt_ids:
        return COMPLETIONS, {"prompt": list(request.prompt_ids)}
    if request.messages is not None:
        return CHAT, {"messages": [dict(message) for message in request.messages]}
    if request.prompt is not None:
        return COMPLETIONS, {"prompt": request.prompt}
    raise EngineError("a request without token ids needs its messages or its text")


def _room(request: EngineRequest, window: int) -> int:
    most = request.sampling.max_tokens
    room = window - len(request.prompt_ids) if window and request.prompt_ids else most
    if room < 1 or most < 1:
        raise EngineError(
            f"{len(request.prompt_ids)} prompt tokens and {most} more do not fit"
            f" a window of {window}"
        )
    return min(most, room)


def _options(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if dialect.seed and sampling.temperature > 0:
        options["seed"] = sampling.seed & _LARGEST_SEED
    if dialect.ignore_eos and sampling.ignore_eos:
        options["ignore_eos"] = True
    for name in ("frequency_penalty", "presence_penalty"):
        value = getattr(sampling, name)
        if value and not dialect.penalties:
            raise EngineError(f"it has no {name}")
        if value:
            options[name] = value
    if sampling.json_schema:
        if dialect.json_schema is None:
            raise EngineError("it cannot be held to a JSON schema")
        options |= _filled(dialect.json_schema, json.loads(sampling.json_schema))
    return options


def _filled(template: Any, schema: Any) -> Any:
    if template == "{schema}":
        return schema
    if isinstance(template, Mapping):
        return {name: _filled(value, schema) for name, value in template.items()}
    return template
