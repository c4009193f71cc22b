"""One model over mixed device classes: the layouts among which depth, flow and latency were weighed, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One layout that no other beats in every figure.

    Attributes:
        stages: pipeline steps of its longest path.
        flow_tokens_per_s: maximum flow, before round trips and KV limits.
        decode_tokens_per_s: expected, with both.
        chosen: the policy chose this one.
    """

    stages: int
    flow_tokens_per_s: float
    decode_tokens_per_s: float
    ttft_s: float
    token_s: float
    chosen: bool = False
