"""OpenAI request bodies: read strictly where we know a field, tolerantly where we do not.

Unknown fields are ignored, so that a newer client still works; a known field that is not supported yet is refused by
name. Of duplicate keys the last one counts. Nothing here knows replicas; text is not looked into.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from actors.wire import Open

from ..errors import RequestError
from .exchange import Call
from .link import CREDITS

MOST_MESSAGES = 10_000
MOST_STOPS = 4
LARGEST_STOP = 1000
LARGEST_SCHEMA = 100_000
_ANY_OBJECT = '{"type":"object"}'
LARGEST_INT64 = 2**63 - 1
ADAPTER = ":"
"""Between a model's name and that of an adapter of it; no model's name has one."""

DEFAULT_COMPLETION_TOKENS = 16
"""Of `/v1/completions` only, as OpenAI's reference has it."""


_OWN_WORDS = re.compile(
    r"^(Input|String|List|Value|Dictionary) | after validation| or instance of \w+"
)
"""Of the validation library: they mean nothing to a client."""


def _listed(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


def _whole(value: object) -> object:
    """JSON has one kind of number: `1e30` is the integer that it says, and is clamped like any other."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
_Stop = Annotated[str, Field(min_length=1, max_length=LARGEST_STOP)]
_Stops = Annotated[list[_Stop], BeforeValidator(_listed), Field(max_length=MOST_STOPS)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]


class _Tolerant(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class StreamOptions(_Tolerant):
    """What a stream carries beside its text."""

    include_usage: bool | None = None


class JsonSchema(_Tolerant):
    """A schema as clients wrap it."""

    name: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(_Tolerant):
    """The form that an answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Message(_Tolerant):
    """One turn of a chat. Parts other than text are refused by the replica, which knows the model."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None


class Request(_Tolerant):
    """The fields that both routes share."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-LARGEST_INT64, le=LARGEST_INT64)] | None = None
    stop: _Stops | None = None
    ignore_eos: bool = False
    n: _Count | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: dict[str, float] | None = None


class ChatRequest(Request):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None
    function_call: Any = None
    response_format: ResponseFormat | None = None
    modalities: list[str] | None = None
    audio: Any = None


class CompletionRequest(Request):
    """Body of `/v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]
    best_of: _Count | None = None
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None


_R = TypeVar("_R", bound=Request)

Accepts = Callable[[Any], bool]


def _absent(value: Any) -> bool:
    return value is None


def _at_most_one(value: Any) -> bool:
    return value is None or value == 1


def _falsy(value: Any) -> bool:
    return not value


def _no_choice(value: Any) -> bool:
    return value in (None, "none", "auto")


def _text_only(value: Any) -> bool:
    return value is None or value == ["text"]


_SHARED: dict[str, Accepts] = {
    "n": _at_most_one,
    "logit_bias": _falsy,
}
_CHAT: dict[str, Accepts] = {
    **_SHARED,
    "logprobs": _falsy,
    "top_logprobs": _absent,
    "tools": _falsy,
    "functions": _falsy,
    "tool_choice": _no_choice,
    "function_call": _no_choice,
    "modalities": _text_only,
    "audio": _absent,
}
_COMPLETION: dict[str, Accepts] = {
    **_SHARED,
    "best_of": _at_most_one,
    "logprobs": _absent,
    "echo": _falsy,
    "suffix": _falsy,
}


def chat_call(body: bytes, request_id: str, deadline_s: float) -> Call:
    """Reads the body of `/v1/chat/completions`.

    Raises:
        RequestError: with the code and the field concerned.
    """
    raw = _json(body)
    request = _validated(ChatRequest, raw, _CHAT)
    limit = request.max_completion_tokens or request.max_tokens
    opening = _open(request, request_id, "chat", limit, deadline_s, messages=raw["messages"])
    return _call(request, replace(opening, json_schema=_schema(request.response_format)))


def completion_call(body: bytes, request_id: str, deadline_s: float) -> Call:
    """Reads the body of `/v1/completions`; one prompt, as text or as token ids.

    Raises:
        RequestError: with the code and the field concerned.
    """
    request = _validated(CompletionRequest, _json(body), _COMPLETION)
    limit = request.max_tokens or DEFAULT_COMPLETION_TOKENS
    prompt = _one_prompt(request.prompt)
    return _call(
        request, _open(request, request_id, "completion", limit, deadline_s, prompt=prompt)
    )


def _schema(wanted: ResponseFormat | None) -> str:
    """The schema that an answer must keep to, as JSON text; empty = any text."""
    if wanted is None or wanted.type == "text":
        return ""
    if wanted.type == "json_object":
        return _ANY_OBJECT
    if wanted.json_schema is None:
        raise RequestError(
            "`response_format.json_schema` is required",
            reason="missing_required_parameter",
            param="response_format.json_schema",
        )
    try:
        text = json.dumps(wanted.json_schema.schema_, separators=(",", ":"), allow_nan=False)
    except ValueError as error:  # the body's `1e999` was read as infinity, which JSON cannot say
        raise RequestError(
            "the schema has a number beyond the largest one",
            reason="invalid_value",
            param="response_format.json_schema.schema",
        ) from error
    if len(text) > LARGEST_SCHEMA:
        raise RequestError(
            f"the schema has {len(text)} characters, {LARGEST_SCHEMA} at most",
            reason="invalid_value",
            param="response_format.json_schema.schema",
        )
    return text


def _json(body: bytes) -> dict[str, Any]:
    try:
        raw = from_json(body, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not valid JSON", reason="invalid_json") from error
    if not isinstance(raw, dict):
        raise RequestError("the body is not a JSON object", reason="invalid_json")
    return raw


def _validated(kind: type[_R], raw: dict[str, Any], accepted: dict[str, Accepts]) -> _R:
    try:
        request = kind.model_validate(raw)
    except ValidationError as error:
        raise _invalid(error, raw) from error
    for name, accepts in accepted.items():
        if not accepts(getattr(request, name)):
            raise RequestError(
                f"`{name}` is not supported with this value",
                hint="leave it out",
                reason="unsupported_parameter",
                param=name,
            )
    return request


def _invalid(error: ValidationError, raw: dict[str, Any]) -> RequestError:
    """The first complaint, without the value: values may be prompts."""
    first = error.errors(include_url=False, include_input=False)[0]
    missing = first["type"] == "missing"
    param = _param(first["loc"], raw, missing=missing)
    if missing:
        return RequestError(
            f"`{param}` is required", reason="missing_required_parameter", param=param
        )
    says = _OWN_WORDS.sub("", first["msg"])
    return RequestError(f"`{param}` {says}", reason="invalid_value", param=param)


def _param(location: tuple[str | int, ...], raw: Any, *, missing: bool) -> str:
    """The keys that the client wrote; the library also names the alternative of a type that it tried."""
    path, value = "", raw
    for key in location:
        if isinstance(key, int):
            path += f"[{key}]"
            value = value[key] if isinstance(value, list) else None
        elif isinstance(value, dict) and (key in value or missing):
            path += f".{key}"
            value = value.get(key)
    return path.lstrip(".")


def _one_prompt(prompt: str | list[int] | list[str] | list[list[int]]) -> str | list[int]:
    if isinstance(prompt, str):
        return prompt
    flat = [item for item in prompt if isinstance(item, int)]
    if flat or not prompt:
        return flat
    first = prompt[0]
    if len(prompt) > 1 or isinstance(first, int):
        raise RequestError(
            f"`prompt` holds {len(prompt)} prompts",
            hint="send one request for each",
            reason="unsupported_parameter",
            param="prompt",
        )
    return first


def _open(
    request: Request,
    request_id: str,
    kind: Literal["chat", "completion"],
    max_tokens: int | None,
    deadline_s: float,
    *,
    messages: list[dict[str, Any]] | None = None,
    prompt: str | list[int] | None = None,
) -> Open:
    return Open(
        id=request_id,
        kind=kind,
        messages=messages,
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=tuple(request.stop or ()),
        ignore_eos=request.ignore_eos,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        lora=request.model.partition(ADAPTER)[2],
        deadline_s=deadline_s,
        credits=CREDITS,
    )


def _call(request: Request, opening: Open) -> Call:
    options = request.stream_options
    return Call(
        model=request.model.partition(ADAPTER)[0],
        request=opening,
        stream=bool(request.stream),
        include_usage=bool(options and options.include_usage),
    )
