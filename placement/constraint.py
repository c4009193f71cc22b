"""What a hard rule is. One rule is one file in `constraints/`; each takes one of three shapes.

A node rule says whether a model may use a node at all, an option rule whether a configuration may run on a pool of equal
devices, a row rule adds capacities that all chosen replicas share. The search knows only these shapes, never a rule.

An option rule that looks at predicted figures has two faces: `excess` measures by how much each of many options misses it,
`check_option` says so of one. The ledger needs a sentence for the nearest miss alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import inf
from typing import Any, Protocol

from .catalog import EngineFacts
from .demand import App, Demand
from .devices import DeviceClass, Dtype
from .forms import Forms, settled_dtypes
from .ids import DeviceId, ModelId, NodeId
from .inventory import Artifact, Inventory, ModelForm, Node
from .layout import Layout, layer_ranges
from .modelspec import ModelFacts
from .plan import Predicted, Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Healthy devices of one pool that share an interconnect island of a node."""

    node: NodeId
    rack: str
    island: int
    devices: tuple[DeviceId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Devices that no rule can tell apart (a collapsed class), whichever nodes they are on.

    Attributes:
        name: of its class, with `#k` from the second pool of a class on; names its capacity row.
        memory_bytes, shares: of each device.
        engines: that can start on its nodes; None = nobody asked.
        models: that may use its nodes.
        compiled: the artifacts by model.
        forms: in which the files of models lie on its nodes, by source; a source of which nobody told any is left out.
    """

    name: str
    device_class: DeviceClass
    memory_bytes: int
    shares: int
    emulated: bool
    engines: frozenset[str] | None
    artifacts: frozenset[Artifact]
    models: frozenset[ModelId]
    blocks: tuple[Block, ...]
    compiled: Mapping[str, tuple[Artifact, ...]] = field(compare=False)
    forms: Forms = frozenset()

    def forms_of(self, source: str) -> frozenset[ModelForm]:
        """The forms of a source there; empty = nobody said."""
        return next((forms for name, forms in self.forms if name == source), frozenset())

    @property
    def units(self) -> int:
        """Devices of the pool, or their shares where a device can be divided."""
        return sum(len(block.devices) for block in self.blocks) * self.shares

    @property
    def nodes(self) -> frozenset[NodeId]:
        """Nodes that it has devices on."""
        return frozenset(block.node for block in self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A configuration of a model on a pool, before it is known to be allowed.

    Attributes:
        layout, predicted: None while only the engine is settled.
    """

    demand: Demand
    facts: ModelFacts
    pool: Pool
    engine: EngineFacts
    layout: Layout | None = None
    predicted: Predicted | None = None

    @property
    def computed(self) -> tuple[Dtype, ...]:
        """Dtypes that the engine computes on this class with the arithmetic that is asked for."""
        able = self.engine.runs(self.demand.arithmetic)
        return tuple(dtype for dtype, _ in self.pool.device_class.flops if dtype in able)

    @property
    def settled(self) -> tuple[Dtype, ...]:
        """Dtypes that prepared forms leave to the engine there; empty = any."""
        return settled_dtypes(self.pool.forms_of(self.demand.model.source), self.engine)

    def reject(
        self,
        constraint: str,
        reason: str,
        *,
        shortage: float = 0.0,
        resolvable: bool = False,
        hint: str = "",
    ) -> Rejection:
        """A rejection of this option by the named rule."""
        return Rejection(
            model=self.demand.id,
            constraint=constraint,
            reason=reason,
            device_class=self.pool.device_class.name,
            engine=self.engine.name,
            tp=self.layout.tp if self.layout else 0,
            shortage=shortage,
            resolvable=resolvable,
            hint=hint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An option that passed every rule, with its worth under the policy.

    Attributes:
        stages: pool and number of layers of each pipeline stage, where these lie in several pools or are uneven; else empty.
        watts: of each of these stages.
    """

    option: Option
    layout: Layout
    predicted: Predicted
    value: float
    stages: tuple[tuple[Pool, int], ...] = ()
    watts: tuple[float, ...] = ()

    @property
    def model(self) -> ModelId:
        """The model that it serves."""
        return self.option.demand.id

    @property
    def pool(self) -> Pool:
        """The devices that it runs on; those of its first stage where stages differ."""
        return self.option.pool

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools that it takes devices of, each once."""
        if not self.stages:
            return (self.option.pool,)
        return tuple({pool.name: pool for pool, _ in self.stages}.values())

    def pool_of(self, stage: int) -> Pool:
        """Where a pipeline stage lies."""
        return self.stages[stage][0] if self.stages else self.option.pool

    def stages_in(self, pool: str) -> int:
        """Pipeline stages that lie in a pool."""
        if not self.stages:
            return self.layout.pp if self.option.pool.name == pool else 0
        return sum(own.name == pool for own, _ in self.stages)

    def stage_watts(self, pool: str) -> tuple[float, ...]:
        """Power of each of the stages in a pool."""
        if not self.stages:
            return (self.power_of(0),) * self.stages_in(pool)
        pairs = zip(self.stages, self.watts, strict=True)
        return tuple(watts for (own, _), watts in pairs if own.name == pool)

    def power_of(self, stage: int) -> float:
        """Power of a pipeline stage; within one pool all are alike."""
        return self.watts[stage] if self.stages else self.predicted.power_w / self.layout.pp

    @property
    def stage_power_w(self) -> float:
        """Power of the pipeline stage that draws most."""
        return max(self.watts) if self.stages else self.power_of(0)

    @property
    def layer_ranges(self) -> tuple[tuple[int, int], ...]:
        """Layers [first, end) of each pipeline stage."""
        if not self.stages:
            return layer_ranges(self.option.facts.layers, self.layout.pp)
        ends = [0, *accumulate(layers for _, layers in self.stages)]
        return tuple(pairwise(ends))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A capacity: the sum of `amounts` over all chosen replicas may not exceed `limit`.

    A minimum is a capacity with both signs turned: negative amounts under a negative limit.

    Attributes:
        amounts: index of a candidate -> what one replica of it takes; absent = nothing.
        hard: False for a cut that placement on nodes implies, which speeds the search but is no rule of its own.
    """

    name: str
    limit: float
    amounts: dict[int, float]
    hard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What row rules see: the app, the inventory and every candidate.

    Attributes:
        of_model, of_pool: indices of candidates.
    """

    app: App
    inventory: Inventory
    pools: tuple[Pool, ...]
    candidates: tuple[Candidate, ...]
    of_model: Mapping[ModelId, Sequence[int]]
    of_pool: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Predicted options of several models on one pool, which all have the same layouts.

    Attributes:
        figures: fields of `Predicted`, each of shape (demands, layouts) or broadcasting to it.
    """

    pool: Pool
    demands: tuple[Demand, ...]
    layouts: tuple[Layout, ...]
    figures: Mapping[str, Any]

    def limit(self, get: Callable[[Demand], float | None]) -> list[list[float]]:
        """A limit of each demand as a column; infinite where it has none."""
        values = (get(demand) for demand in self.demands)
        return [[inf if value is None else value] for value in values]


class NodeRule(Protocol):
    """Which nodes a model may not use."""

    def __call__(self, demands: Sequence[Demand], nodes: Sequence[Node], /) -> Iterator[Rejection]:
        """Yields one rejection per model and node; looks only at pairs that could be refused."""


class ExcessRule(Protocol):
    """By how much predicted options miss a limit."""

    def __call__(self, columns: Columns, /) -> Any:
        """Array of shape (demands, layouts), in the unit of the rule's shortage; 0 or less passes."""


class OptionRule(Protocol):
    """Whether a configuration may run on a pool."""

    def __call__(self, option: Option, /) -> Rejection | None:
        """None when it may."""


class RowRule(Protocol):
    """Capacities that all replicas share."""

    def __call__(self, scope: Scope, /) -> Iterator[Row]:
        """Yields rows; only those that could bind."""
