"""What a better plan is: weights of four objectives. A policy is data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Weights, each >= 0, of throughput, latency, energy and cost in a candidate's value."""

    name: str
    throughput: float = 0.0
    latency: float = 0.0
    energy: float = 0.0
    cost: float = 0.0


POLICIES = {
    policy.name: policy
    for policy in (
        Policy(name="balanced", throughput=1.0, latency=0.5, energy=0.2, cost=0.2),
        Policy(name="latency", throughput=0.1, latency=1.0),
        Policy(name="throughput", throughput=1.0, latency=0.05),
        Policy(name="energy", throughput=0.3, latency=0.05, energy=1.0),
        Policy(name="cost", throughput=0.3, latency=0.05, cost=1.0),
    )
}
