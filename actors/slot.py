"""A planned replica as its node needs to know it: the plan's slot joined with the demand it serves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from placement.demand import Demand
from placement.devices import Device, Dtype
from placement.ids import DeviceId, NodeId
from placement.modelspec import ModelFacts
from placement.plan import Slot
from placement.tuning import PLAIN, Tuning

from .engine import Pace

QUEUE_PER_SEQUENCE = 4
"""Requests that may wait in a replica for each sequence it decodes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One pipeline stage: its node, the launch handles of its devices there, and its layers, [first, end)."""

    node: str
    handles: tuple[str, ...]
    layers: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSpec:
    """Everything that starts one replica.

    Attributes:
        id: planned replica, e.g. `smollm2/r0`.
        source, tokenizer: model sources, resolved on the node.
        claims: exclusive Ray resources and how much of each, per stage; stage 0 hosts the replica.
        nodes: one per stage.
        handles: launch handles of the first stage's devices.
        family: of these devices, as in `vendors.toml`; it selects the variable that tells an engine its devices.
        stages: all of them, the first included; one is no pipeline.
        shares, device_shares: taken of each device, of how many it has.
        threads: compute threads, and cores of its own, on a CPU; 0 on an accelerator.
        window: longest sequence in tokens.
        memory_bytes: planned on each device.
        facts: of the model as the plan knows it; None where only its weights know them.
        calibrate: measure the engine when it has loaded.
        pace: figures of the cost model, kept to by the emulated engine.
    """

    id: str
    model: str
    source: str
    tokenizer: str
    engine: str
    device_class: str
    arithmetic: Literal["fast", "exact"]
    nodes: tuple[str, ...]
    claims: tuple[tuple[tuple[str, float], ...], ...]
    handles: tuple[str, ...]
    family: str
    threads: int
    window: int
    concurrency: int
    queue: int
    kv_bytes: int
    emulated: bool
    load_s: float
    pace: Pace
    dtype: Dtype | None = None
    tp: int = 1
    stages: tuple[StageSpec, ...] = ()
    shares: int = 1
    device_shares: int = 1
    memory_bytes: int = 0
    facts: ModelFacts | None = None
    tuning: Tuning = PLAIN
    calibrate: bool = False

    @property
    def fingerprint(self) -> str:
        """Equal for two specs whose replicas are interchangeable without a restart; predictions do not count."""
        zero = Pace(fixed_s=0, per_sequence_s=0, prefill_tokens_per_s=0, load_s=0)
        lasting = replace(self, load_s=0, pace=zero, memory_bytes=0, facts=None, calibrate=False)
        text = json.dumps(asdict(lasting), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


DEVICE_PREFIX = "shardyard_dev_"
EMULATED_SUFFIX = "_EMULATED"


def device_resource(node: str, device: str) -> str:
    """The exclusive Ray resource of one device.

    >>> device_resource("gpu-1", "gpu-1/0")
    'shardyard_dev_gpu-1_0'
    """
    return f"{DEVICE_PREFIX}{node}_{device.removeprefix(node + '/')}"


def class_resource(device_class: str, *, emulated: bool) -> str:
    """The Ray resource that counts a node's devices of one class, for people who read `ray status`."""
    return device_class + EMULATED_SUFFIX if emulated else device_class


def slot_spec(
    slot: Slot, demand: Demand, devices: Mapping[str, Device], *, calibrate: bool = False
) -> SlotSpec:
    """Joins a planned slot with its demand and with what its nodes say of the devices today."""
    first = slot.stages[0]
    mine = [devices[name] for name in first.devices if name in devices]
    family = next((device.identity.partition(":")[0] for device in mine), "")
    on_cpu = first.devices[0].rpartition("/")[2].startswith("cpu")
    predicted = slot.predicted
    return SlotSpec(
        id=slot.id,
        model=slot.model,
        source=demand.model.source,
        tokenizer=demand.model.tokenizer,
        engine=slot.engine,
        device_class=slot.device_class,
        arithmetic=demand.arithmetic,
        nodes=tuple(slot.nodes),
        claims=tuple(_claims(stage.node, stage.devices, stage.shares) for stage in slot.stages),
        handles=_handles(first.devices, devices),
        family=family,
        threads=first.shares * len(first.devices) if on_cpu else 0,
        window=demand.context,
        concurrency=demand.concurrency,
        queue=QUEUE_PER_SEQUENCE * demand.concurrency,
        kv_bytes=slot.kv_bytes,
        emulated=slot.emulated,
        load_s=predicted.load_s,
        dtype=slot.dtype,
        tp=slot.tp,
        stages=tuple(
            StageSpec(node=s.node, handles=_handles(s.devices, devices), layers=s.layers)
            for s in slot.stages
        ),
        shares=first.shares,
        device_shares=mine[0].shares if mine else 1,
        memory_bytes=predicted.memory_bytes,
        facts=demand.model.facts,
        tuning=demand.tuning,
        calibrate=calibrate,
        pace=Pace(
            fixed_s=predicted.token_s_fixed,
            per_sequence_s=predicted.token_s_per_sequence,
            prefill_tokens_per_s=predicted.prefill_tokens_per_s,
            load_s=predicted.load_s,
        ),
    )


def _handles(names: tuple[DeviceId, ...], devices: Mapping[str, Device]) -> tuple[str, ...]:
    return tuple(devices[name].handle for name in names if name in devices)


def _claims(node: NodeId, devices: tuple[Any, ...], shares: int) -> tuple[tuple[str, float], ...]:
    return tuple((device_resource(node, device), float(shares)) for device in devices)
