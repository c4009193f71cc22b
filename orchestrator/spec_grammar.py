"""The keys of a spec file (`app.yaml`): their types, limits and defaults.

Decides what may be written. It must not know the core's nouns (orchestrator.spec converts) nor files and lines.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

BuiltIn = Literal["latency", "throughput", "energy", "cost", "balanced"]
Dtype = Literal["auto", "fp32", "bf16", "fp16", "fp8", "int8", "int4"]

SCHEMES = ("package://", "file://", "hf://", "openai+https://", "openai+http://")
MAX_REPLICAS = 10_000
MAX_TOKENS = 16_777_216
MAX_CONCURRENCY = 8192

Capability = Literal["ids", "seed", "penalties", "json_schema", "logprobs", "lora", "prefix_cache"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REPLICA = re.compile(r".*/r[0-9]+")
_LONGEST_NAME = 100


def number(value: object) -> object:
    """YAML reads `70.6e9` as text; it means the number."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _check_name(value: str) -> str:
    if len(value) > _LONGEST_NAME or not _NAME.fullmatch(value):
        raise ValueError(
            f"is no name: letters, digits, . _ - and / between them, {_LONGEST_NAME} at most"
        )
    if _REPLICA.fullmatch(value):
        raise ValueError("is no name for a model: its replicas are called NAME/r0, NAME/r1, ...")
    return value


def _check_word(value: str) -> str:
    if len(value) > _LONGEST_NAME or not _WORD.fullmatch(value):
        raise ValueError(f"is no name: letters, digits, . _ -, {_LONGEST_NAME} at most")
    return value


def _check_source(value: str) -> str:
    scheme = next((s for s in SCHEMES if value.startswith(s)), None)
    if scheme is None or value == scheme:
        raise ValueError(f"is no model source: begin with one of {', '.join(SCHEMES)}")
    rest = value.removeprefix(scheme)
    if len(value) > 1000 or not rest.isprintable() or ".." in rest.split("/"):
        raise ValueError("is no model source: no control characters and no .. in it")
    if scheme == "file://" and not rest.startswith(("/", "~/")):
        raise ValueError("needs an absolute path: file:///models/NAME")
    return value


def _range(value: object) -> object:
    """`replicas: 3` is short for `{min: 3, max: 3}`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"min": value, "max": value}
    if value is None or isinstance(value, str | float | bool):
        raise ValueError("should be a number, or {min: 1, max: 4}")
    return value


def _weights(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_check_name)]
Word = Annotated[str, AfterValidator(_check_word)]
Source = Annotated[str, AfterValidator(_check_source)]
Positive = Annotated[float, BeforeValidator(number), Field(gt=0, le=1e12, allow_inf_nan=False)]
Weight = Annotated[float, BeforeValidator(number), Field(ge=0, le=1e6, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MAX_TOKENS)]


class Strict(BaseModel):
    """No conversions, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Weights(Strict):
    """How much each objective counts."""

    throughput: Weight = 0.0
    latency: Weight = 0.0
    energy: Weight = 0.0
    cost: Weight = 0.0

    @model_validator(mode="after")
    def _some_weight(self) -> Weights:
        if not (self.throughput or self.latency or self.energy or self.cost):
            raise ValueError("one weight at least must be above 0")
        return self


class Policy(Strict):
    """A policy by name (`policy: latency` in short), a built-in one or one of `policies`; or by weights."""

    name: Word | None = None
    weights: Weights | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Policy:
        if (self.name is None) == (self.weights is None):
            raise ValueError("give a name or weights")
        return self


class Power(Strict):
    """Limits in watts: of the cluster, of each rack, of each node."""

    cluster: Positive | None = None
    rack: Positive | None = None
    node: Positive | None = None


class Budgets(Strict):
    """Limits over all models."""

    power_watts: Power = Power()


class Tenant(Strict):
    """Limits of one group of users: most devices of each class."""

    max_devices: dict[Word, Annotated[int, Field(ge=0, le=1_000_000)]] = {}
    exclusive_nodes: bool = False


class Replicas(Strict):
    """Copies of a model: at least `min`, at most `max`."""

    min: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 1
    max: Annotated[int, Field(ge=0, le=MAX_REPLICAS)]

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Facts(Strict):
    """What placement needs to know of a model; spares reading its weights."""

    parameters: Annotated[float, BeforeValidator(number), Field(ge=1, le=1e15, allow_inf_nan=False)]
    layers: Annotated[int, Field(ge=1, le=10_000)]
    hidden: Count
    heads: Annotated[int, Field(ge=1, le=65_536)]
    kv_heads: Annotated[int, Field(ge=1, le=65_536)]
    head_dim: Annotated[int, Field(ge=1, le=65_536)]
    ffn: Count
    vocab: Count
    window: Count
    architecture: Word
    weights_bytes: Annotated[int, Field(ge=0, le=1 << 50)] = 0

    @model_validator(mode="after")
    def _heads_divide(self) -> Facts:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not divide into {self.kv_heads} kv_heads")
        return self


class Rate(Strict):
    """Expected traffic of a model, all replicas together."""

    requests_per_s: Positive
    prompt_tokens: Count
    output_tokens: Count


class Pin(Strict):
    """Only there."""

    node: Annotated[list[Word], Field(min_length=1)]


class Constraints(Strict):
    """Hard rules of one model; `preferred_hardware` alone is a wish."""

    max_latency_ms: Positive | None = None
    max_token_ms: Positive | None = None
    min_tokens_per_s: Positive | None = None
    power_budget_watts: Positive | None = None
    max_price_per_hour: Positive | None = None
    preferred_hardware: list[Word] = []
    banned_hardware: list[Word] = []
    spread: Literal["node", "rack", "none"] = "none"
    pin: Pin | None = None

    @model_validator(mode="after")
    def _no_contradiction(self) -> Constraints:
        both = set(self.preferred_hardware) & set(self.banned_hardware)
        if both:
            raise ValueError(f"{', '.join(sorted(both))}: both preferred and banned")
        return self


class Artifacts(Strict):
    """Compiled models: `never` = only what was compiled before."""

    build: Literal["allowed", "never"] = "allowed"


class Tuning(Strict):
    """Handed to the engine as it is; decides nothing in the plan."""

    attention_backend: Word | None = None
    quantization: Word | None = None
    kv_dtype: Word | None = None
    prefix_cache: bool = True
    allow_pickle: bool = False
    lora: Annotated[dict[Word, Source], Field(max_length=64)] = {}


class Model(Strict):
    """One model as asked for."""

    source: Source
    tokenizer: Source | None = None
    facts: Facts | None = None
    replicas: Annotated[Replicas, BeforeValidator(_range)] = Replicas(min=1, max=1)
    context: Count = 2048
    concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)] = 8
    dtype: Dtype = "auto"
    arithmetic: Literal["fast", "exact"] = "fast"
    engines: Annotated[list[Word], Field(min_length=1)] | None = None
    requires: list[Capability] = []
    tuning: Tuning = Tuning()
    rate: Rate | None = None
    constraints: Constraints = Constraints()
    artifacts: Artifacts = Artifacts()
    tenant: Word = "default"
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0

    @model_validator(mode="after")
    def _fits_window(self) -> Model:
        if self.facts is not None and self.context > self.facts.window:
            raise ValueError(
                f"context {self.context} is above the model's window of {self.facts.window} tokens"
            )
        return self


class Gateway(Strict):
    """The OpenAI endpoint: where it listens, for which web pages, by how many processes, behind which server."""

    host: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    count: Annotated[int, Field(ge=1, le=64)] | None = None
    cors_origins: list[Annotated[str, Field(min_length=1, max_length=255)]] = []
    ingress: Literal["own", "serve"] = "own"


class Spec(Strict):
    """A whole `app.yaml`."""

    name: Word = "app"
    policy: Annotated[Policy, BeforeValidator(_weights)] = Policy(name="balanced")
    policies: Annotated[dict[Word, Weights], Field(max_length=100)] = {}
    budgets: Budgets = Budgets()
    tenants: dict[Word, Tenant] = {}
    models: Annotated[dict[Name, Model], Field(min_length=1, max_length=10_000)]
    gateway: Gateway = Gateway()
