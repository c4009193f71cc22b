"""Remote endpoints as devices: which models one takes, and what a replica of a model on it is expected to do.

A device of kind `remote` has one share per sequence that the endpoint takes at once; a replica takes as many shares as the
demand asks concurrency, needs no memory and draws no power of ours. Knows no rules and no nodes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from .demand import Demand
from .devices import DeviceClass, Dtype, Endpoint
from .layout import Layout
from .modelspec import ModelFacts
from .plan import Predicted

Figure: TypeAlias = Any
"""A float, or an array of them with one entry per option."""

DTYPE: Dtype = "bf16"
"""What a remote layout says where nobody asked for a dtype; how the endpoint computes is its own affair."""

UNKNOWN_FACTS = ModelFacts(
    parameters=8e9,
    layers=1,
    hidden=1,
    heads=1,
    kv_heads=1,
    head_dim=1,
    ffn=1,
    vocab=1,
    window=0,
    architecture="",
)
"""Of a model that only an endpoint knows: its size is a guess that only scales scores; window 0 = not limited by us."""


def is_remote(source: str) -> bool:
    """Whether a model source is an endpoint's address."""
    return source.startswith("openai+")


def offers(endpoint: Endpoint, demand: Demand) -> bool:
    """Whether a model may be sent there: its source is the endpoint (or below it), or the operator listed its name."""
    base = endpoint.url.rstrip("/")
    at_home = demand.model.source == base or demand.model.source.startswith(f"{base}/")
    return at_home or demand.id in endpoint.models


def remote_layout(demand: Demand) -> Layout:
    """The only layout of a model on an endpoint."""
    return Layout(dtype=demand.dtype or DTYPE, shares=demand.concurrency)


def remote_prediction(demand: Demand, device_class: DeviceClass) -> Predicted:
    """What one replica does; see `remote_figures`."""
    return Predicted(**remote_figures(device_class, demand.concurrency, expected_prompt(demand)))


def expected_prompt(demand: Demand) -> int:
    """Tokens of a prompt: as the demand's rate says, else half its context."""
    return max(1, demand.context // 2 if demand.rate is None else demand.rate.prompt_tokens)


def remote_figures(
    device_class: DeviceClass, concurrency: Figure, prompt: Figure
) -> dict[str, Figure]:
    """The fields of a prediction from the declared figures, as numbers or as arrays; sequences do not slow each other down.

    The price is that of a replica that is busy all the time, so that price / tokens is the declared price per token.
    """
    endpoint = device_class.endpoint
    assert endpoint is not None, f"{device_class.name} is no endpoint"
    token_s = 1 / endpoint.tokens_per_s
    tokens_per_s = concurrency * endpoint.tokens_per_s
    return {
        "ttft_s": endpoint.ttft_s,
        "token_s": token_s,
        "token_s_fixed": token_s,
        "token_s_per_sequence": 0.0,
        "prefill_tokens_per_s": prompt / max(endpoint.ttft_s, 1e-6),
        "tokens_per_s": tokens_per_s,
        "power_w": 0.0,
        "price_per_hour": endpoint.price_per_million_tokens * tokens_per_s * 3600 / 1e6,
        "memory_bytes": 0,
        "load_s": 0.0,
        "uncertainty": device_class.uncertainty,
    }
