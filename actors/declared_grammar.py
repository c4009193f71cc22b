"""The keys of a declared node: what may be written of its processor and its devices, and what an error says.

Decides types and limits. It must not know device classes, files or line numbers.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from placement.devices import Dtype, Kind
from placement.errors import SpecError

MAX_DEVICES = 4096
"""Most devices of one node; a larger number is a typing error."""


def _number(value: object) -> object:
    """YAML reads `1e3` as a text; it means the number."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _whole(value: object) -> object:
    """Keys of a mapping are texts in JSON."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


_Positive = Annotated[float, BeforeValidator(_number), Field(ge=1e-6, le=1e9, allow_inf_nan=False)]
_Amount = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1e9, allow_inf_nan=False)]
_Name = Annotated[str, Field(min_length=1, max_length=100)]
_Position = Annotated[int, Field(ge=0, lt=MAX_DEVICES)]
_Key = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=MAX_DEVICES)]
_Part = Annotated[float, BeforeValidator(_number), Field(ge=0.01, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, populate_by_name=True)


class Cpu(_Strict):
    """The processor as one device."""

    cores: Annotated[int, Field(ge=1, le=MAX_DEVICES)]
    memory_gib: _Positive
    device_class: str = Field(default="CPU", alias="class")


class Endpoint(_Strict):
    """A remote OpenAI endpoint: what it offers, and what its operator says of it."""

    url: Annotated[str, Field(pattern=r"^openai\+https?://[^\s/][^\s]*$", max_length=1000)]
    models: list[_Name] = []
    concurrency: Annotated[int, Field(ge=1, le=65_536)]
    tokens_per_s: _Positive
    ttft_ms: _Amount
    price_per_million_tokens: _Amount = 0.0
    uncertainty: Annotated[float, BeforeValidator(_number), Field(ge=0, le=10)] = 0.5


class Group(_Strict):
    """One entry of `devices`: `count` equal devices. Positions in it count from 0 within the entry."""

    device_class: _Name = Field(alias="class")
    count: Annotated[int, Field(ge=1, le=MAX_DEVICES)] = 1
    islands: list[list[_Position]] | None = None
    unhealthy: list[_Position] = []
    degraded: list[_Position] = []
    throttled: dict[_Key, _Part] = {}
    memory_gib: _Positive | None = None
    memory_gbyte_per_s: _Positive | None = None
    tflops: Annotated[dict[Dtype, _Positive], Field(min_length=1)] | None = None
    watts: _Amount | None = None
    idle_watts: _Amount | None = None
    link_gbyte_per_s: _Amount | None = None
    price_per_hour: _Amount | None = None
    kind: Annotated[Kind, Field(strict=False)] | None = None
    vendor: str | None = None
    endpoint: Endpoint | None = None


class Hardware(_Strict):
    """What a node has."""

    cpu: Cpu | None = None
    devices: list[Group] = []


def parse_hardware(declaration: Mapping[str, object]) -> Hardware:
    """The keys `cpu` and `devices` of a declaration; others are not looked at.

    Raises:
        SpecError: with the path of keys.
    """
    present = {
        key: declaration[key] for key in ("cpu", "devices") if declaration.get(key) is not None
    }
    try:
        return Hardware.model_validate(present)
    except ValidationError as error:
        found = error.errors(include_url=False)
        first = min(found, key=lambda f: f["type"] != "extra_forbidden")
        path = [key for key in first["loc"] if key != "[key]"]
        raise wrong(path, _sentence(first), hint=_nearest_key(path, first["type"])) from None


def _sentence(found: Any) -> str:
    if found["type"] == "extra_forbidden":
        return "unknown key"
    if found["type"] == "missing":
        return "is required"
    if found["type"] == "model_type":
        return f"should be a mapping of keys, not {str(found['input'])[:80]!r}"
    says = str(found["msg"]).removeprefix("Input ").removeprefix("Dictionary ")
    says = says.replace(" after validation", "")
    return f"{says}, not {str(found['input'])[:80]!r}"


def _nearest_key(path: Sequence[int | str], kind: str) -> str:
    if kind != "extra_forbidden":
        return ""
    inside = Endpoint if "endpoint" in path[:-1] else Group
    shape = Cpu if path[0] == "cpu" else inside
    keys = [field.alias or name for name, field in shape.model_fields.items()]
    near = difflib.get_close_matches(str(path[-1]), keys, n=1)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(keys)}"


def wrong(path: Sequence[int | str], says: str, *, hint: str = "") -> SpecError:
    """The error that a value is wrong, naming the path of keys."""
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
    return SpecError(f"{place}: {says}", hint=hint, path=list(path))


def declaration_schema() -> dict[str, Any]:
    """JSON Schema of the keys `cpu` and `devices` of one node, with its `$defs`."""
    return Hardware.model_json_schema(by_alias=True)
