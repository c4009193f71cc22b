"""What a replica is worth under a policy. Linear over replicas, absolute (no scale depends on what else there is).

A replica is worth (1 + priority) x (1 + 0.9 x quality + 0.1 if its class is preferred), quality in 0..1: so one more replica
is always worth more than a better one. Quality is the weighted mean of four saturating scores x / (x + reference).
"""

from __future__ import annotations

from .demand import Demand
from .modelspec import ModelFacts
from .plan import Predicted
from .policy import Policy

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
    weight = max(1.0 + demand.priority, 0.01)
    return weight * (1.0 + 0.9 * quality(demand, facts, policy, predicted) + bonus)


def quality(demand: Demand, facts: ModelFacts, policy: Policy, predicted: Predicted) -> float:
    """Weighted mean of the scores, 0..1; 0 when every weight is 0."""
    weights = (policy.throughput, policy.latency, policy.energy, policy.cost)
    total = sum(weights)
    if total == 0:
        return 0.0
    scores = (
        _more(predicted.tokens_per_s, TOKENS_PER_S_PER_SEQUENCE * demand.concurrency),
        (_less(predicted.ttft_s, TTFT_S) + _less(predicted.token_s, TOKEN_S)) / 2,
        _less(
            predicted.power_w / predicted.tokens_per_s,
            JOULES_PER_TOKEN_AND_PARAMETER * facts.parameters,
        ),
        _less(
            predicted.price_per_hour / 3600 / predicted.tokens_per_s,
            PRICE_PER_TOKEN_AND_PARAMETER * facts.parameters,
        ),
    )
    return sum(w * s for w, s in zip(weights, scores, strict=True)) / total


def _more(value: float, reference: float) -> float:
    return value / (value + reference)


def _less(value: float, reference: float) -> float:
    return reference / (value + reference)
