"""The answer: which shard of which model runs where, why, and what would have to change when it cannot.

A plan is a proposal. It carries the inventory generation it was solved on; applying it to another one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .devices import Dtype
from .ids import DeviceId, ModelId, NodeId, SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Pipeline step: layers [first, end) on the devices of one TP group of one node.

    Attributes:
        shares: taken of each of the devices (1; cores on a CPU).
    """

    layers: tuple[int, int]
    node: NodeId
    devices: tuple[DeviceId, ...]
    shares: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What the cost model expects of one replica.

    Attributes:
        ttft_s: time to first token of a prompt of the expected length, p50, unloaded.
        token_s: time per output token at the asked concurrency.
        token_s_fixed, token_s_per_sequence: t(B) = fixed + per_sequence * B.
        prefill_tokens_per_s: prompt tokens per second.
        tokens_per_s: output tokens per second, all sequences together.
        memory_bytes: on each device.
        load_s: from start to ready.
        uncertainty: relative.
    """

    ttft_s: float
    token_s: float
    token_s_fixed: float
    token_s_per_sequence: float
    prefill_tokens_per_s: float
    tokens_per_s: float
    power_w: float
    price_per_hour: float
    memory_bytes: int
    load_s: float
    uncertainty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerUp:
    """The best configuration that was not chosen, and what it would have lost."""

    device_class: str
    engine: str
    tp: int
    pp: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a slot looks as it does: the runner-up (None = no other candidate) and the rows that bind."""

    runner_up: RunnerUp | None = None
    binding: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One planned replica.

    Attributes:
        device_class: of all its devices (first stage's where stages differ).
        kv_bytes: KV cache to reserve, whole replica.
        emulated: runs on declared devices with the emulated engine.
    """

    id: SlotId
    model: ModelId
    engine: str
    device_class: str
    dtype: Dtype
    tp: int
    pp: int
    stages: tuple[Stage, ...]
    predicted: Predicted
    kv_bytes: int
    emulated: bool = False
    why: Why = Why()

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        """The nodes of its stages, in order."""
        return tuple(stage.node for stage in self.stages)

    @property
    def devices(self) -> tuple[DeviceId, ...]:
        """All its devices, in order of the stages."""
        return tuple(device for stage in self.stages for device in stage.devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a candidate lost before the search.

    Attributes:
        device_class, tp, node: as far as the candidate was concrete; empty and 0 where it was not.
        constraint: name of the hard rule.
        reason: one sentence with both figures.
        shortage: how much is missing, in the constraint's own unit (GiB for memory); 0 = not a quantity.
        resolvable: freeing or adding resources could help (False: never on this class).
    """

    model: ModelId
    constraint: str
    reason: str
    device_class: str = ""
    engine: str = ""
    tp: int = 0
    node: str = ""
    shortage: float = 0.0
    resolvable: bool = False
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A verified placement of every demand.

    Attributes:
        value: of the plan under the policy; placing nothing = 0.
        bound: no plan can be worth more.
        dual_bound: what `prices` prove alone, by weak duality; `bound` is lower where a complete search proved it.
        proof: of `bound` = value: `prices` reach it, or a `search` of all that could be better found nothing; else `none`.
        proven: bound reached.
        prices: what one more unit of a row is worth, e.g. `devices:NVIDIA_H100_80G`.
        unplaced: copies above `replicas_min` that found no place.
    """

    generation: int
    policy: str
    seed: int
    value: float
    bound: float
    proven: bool
    slots: tuple[Slot, ...]
    unplaced: tuple[SlotId, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    prices: tuple[tuple[str, float], ...] = ()
    dual_bound: float = 0.0
    proof: Literal["prices", "search", "none"] = "none"

    @property
    def gap(self) -> float:
        """(bound - value) / |bound|; 0 when proven or nothing was asked."""
        return (
            0.0 if self.proven or self.bound == 0 else (self.bound - self.value) / abs(self.bound)
        )

    def slot(self, slot: SlotId) -> Slot | None:
        """The slot of that id, or None."""
        return next((s for s in self.slots if s.id == slot), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """A change of the spec that makes it feasible: path of keys in the spec -> new value, None = remove the key.

    Attributes:
        change: dotted paths; a model's name may hold dots itself.
        paths: the same paths key by key, in the order of `change`.
    """

    change: tuple[tuple[str, str | int | float | None], ...]
    says: str
    paths: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """Hardware with which the spec is feasible as it is; `what_if` is the argument of `plan --what-if`."""

    what_if: str
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Infeasible:
    """No plan exists: a set of demands that cannot hold together, and what would help: another spec or more hardware."""

    generation: int
    policy: str
    seed: int
    conflict: tuple[str, ...]
    rejections: tuple[Rejection, ...] = ()
    fixes: tuple[Fix, ...] = ()
    additions: tuple[Addition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of a plan diff."""

    kind: Literal["start", "stop", "move", "keep"]
    slot: SlotId
    before: Slot | None
    after: Slot | None
    reason: str
