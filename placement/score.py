"""What a replica is worth under a policy. Linear over replicas, absolute (no scale depends on what else there is).

A replica is worth (1 + priority) x (1 + 0.9 x quality + 0.1 if its class is preferred), quality in 0..1: so one more replica
is always worth more than a better one. Quality is the weighted mean of four saturating scores x / (x + reference).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from .demand import Demand
from .modelspec import ModelFacts
from .plan import Predicted
from .policy import Policy

Figure: TypeAlias = Any
"""A float, or an array of them with one entry per option."""

TOKENS_PER_S_PER_SEQUENCE = 20.0
"""Half of the throughput score: a fast reader's pace for each of the asked sequences."""

TTFT_S, TOKEN_S = 1.0, 0.05
"""Half of the latency score, each counting half."""

JOULES_PER_TOKEN_AND_PARAMETER = 5e-11
"""Half of the energy score: 3.5 J per token for 70e9 parameters."""

PRICE_PER_TOKEN_AND_PARAMETER = 1e-16
"""Half of the cost score: 7 per million tokens for 70e9 parameters."""


def replica_value(
    demand: Demand, facts: ModelFacts, policy: Policy, predicted: Predicted, device_class: str
) -> float:
    """Worth of one replica; between weight and 2 x weight, weight = 1 + priority (at least 0.01)."""
    bonus = 0.1 if device_class in demand.preferred else 0.0
    good = quality(policy, vars_of(predicted), demand.concurrency, facts.parameters)
    return weight_of(demand) * (1.0 + 0.9 * good + bonus)


def weight_of(demand: Demand) -> float:
    """How much each replica of a model counts."""
    return max(1.0 + demand.priority, 0.01)


def vars_of(predicted: Predicted) -> dict[str, float]:
    """The figures that quality looks at."""
    return {name: getattr(predicted, name) for name in QUALITIES}


QUALITIES = ("tokens_per_s", "ttft_s", "token_s", "power_w", "price_per_hour")


def quality(
    policy: Policy, figures: Mapping[str, Figure], concurrency: Figure, parameters: Figure
) -> Figure:
    """Weighted mean of the scores, 0..1; 0 when every weight is 0. Of single figures or of columns of them."""
    weights = (policy.throughput, policy.latency, policy.energy, policy.cost)
    total = sum(weights)
    if total == 0:
        return 0.0
    tokens_per_s = figures["tokens_per_s"]
    joules = figures["power_w"] / tokens_per_s
    price = figures["price_per_hour"] / 3600 / tokens_per_s
    scores = (
        1.0 - _less(tokens_per_s, TOKENS_PER_S_PER_SEQUENCE * concurrency),
        (_less(figures["ttft_s"], TTFT_S) + _less(figures["token_s"], TOKEN_S)) / 2,
        _less(joules, JOULES_PER_TOKEN_AND_PARAMETER * parameters),
        _less(price, PRICE_PER_TOKEN_AND_PARAMETER * parameters),
    )
    return sum(w * s for w, s in zip(weights, scores, strict=True)) / total


def _less(value: Figure, reference: Figure) -> Figure:
    return reference / (value + reference)
