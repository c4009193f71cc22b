"""What is asked of the cluster for one model. The spec file becomes these values (orchestrator.spec)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .devices import Dtype
from .engine_facts import Capability
from .ids import ModelId, NodeId
from .modelspec import ModelSpec
from .policy import POLICIES, Policy
from .tuning import PLAIN, Tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Expected traffic of a model."""

    requests_per_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One model as asked for.

    Attributes:
        replicas_min, replicas_max: copies wanted; fewer than min is infeasible.
        context: tokens of prompt and completion per sequence.
        concurrency: sequences at once in a replica; with `context` it sizes the KV cache.
        dtype: None = whatever the stored weights and the engine prefer.
        engines: allowed engines; None = whatever can.
        requires: capabilities that an engine must offer.
        tuning: handed to the engine; decides nothing here.
        max_ttft_s, max_token_s: predicted bounds, None = none.
        min_tokens_per_s: of all copies together, as soon as there is one.
        preferred, banned: device class names.
        spread: replicas of this model on different nodes, racks, or anywhere.
        pin_nodes: only these nodes; None = any.
        build: whether an engine that needs a compiled artifact may compile one where there is none.
        priority: larger is more important.
    """

    model: ModelSpec
    replicas_min: int = 1
    replicas_max: int = 1
    context: int = 2048
    concurrency: int = 8
    dtype: Dtype | None = None
    arithmetic: Literal["fast", "exact"] = "fast"
    engines: frozenset[str] | None = None
    requires: frozenset[Capability] = frozenset()
    tuning: Tuning = PLAIN
    rate: Rate | None = None
    max_ttft_s: float | None = None
    max_token_s: float | None = None
    min_tokens_per_s: float | None = None
    power_budget_w: float | None = None
    max_price_per_hour: float | None = None
    preferred: frozenset[str] = frozenset()
    banned: frozenset[str] = frozenset()
    spread: Literal["node", "rack", "none"] = "none"
    pin_nodes: frozenset[NodeId] | None = None
    build: Literal["allowed", "never"] = "allowed"
    tenant: str = "default"
    priority: int = 0

    @property
    def id(self) -> ModelId:
        """The model's name."""
        return self.model.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A group of users with its limits: devices per class (absent = unlimited)."""

    name: str
    max_devices: tuple[tuple[str, int], ...] = ()
    exclusive_nodes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Power limits in watts; None = none. `rack_w` and `node_w` hold for each rack and each node."""

    cluster_w: float | None = None
    rack_w: float | None = None
    node_w: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """A whole spec: every model asked for, and the rules over all of them."""

    name: str
    demands: tuple[Demand, ...]
    policy: Policy = POLICIES["balanced"]
    budgets: Budgets = Budgets()
    tenants: tuple[Tenant, ...] = ()
