"""Checks one slot of a plan alone: shape, places, engine, memory and predicted figures. Part of the verifier.

Like it, shares no code with the solver; what slots do to each other is `verify`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, isclose

from .catalog import EMULATED, EngineFacts, classes_of, engines_for
from .demand import Demand
from .devices import BYTES_PER_VALUE, Device, DeviceClass, Health, Kind, at_speed
from .ids import DeviceId, NodeId, slot_id
from .inventory import Inventory, Node
from .layout import Layout
from .modelspec import ModelFacts
from .plan import Predicted, Slot, Stage
from .prediction import Evidence, predicted
from .problem import facts_of
from .remote import offers, remote_layout
from .roofline import slowest_hop
from .verify_files import absences, as_stored, file_faults

_RELATIVE = 1e-6

_FIGURES = tuple(Predicted.__dataclass_fields__)


class Ground:
    """Lookups over one inventory."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.nodes: dict[NodeId, Node] = {n.id: n for n in inventory.nodes}
        self.devices: dict[DeviceId, Device] = {d.id: d for n in inventory.nodes for d in n.devices}
        self.classes = classes_of(inventory)


def slot_faults(ground: Ground, demand: Demand, slot: Slot) -> Iterator[str]:
    """Faults of one slot. Later checks rely on earlier ones, so the first group that fails ends it."""
    facts = facts_of(demand, ground.inventory)
    device_class = ground.classes.get(slot.device_class)
    if device_class is not None:
        device_class = at_speed(device_class, _speed(ground, slot))
    if facts is None or device_class is None:
        yield "its model or its device class is unknown"
        return
    if not _named(slot):
        yield f"is named {slot.id}, not after {slot.model}"
    for check in (
        _shape(facts, slot),
        _places(ground, demand, slot),
        _engine(ground, demand, facts, device_class, slot),
        _figures(ground, demand, facts, device_class, slot),
    ):
        faults = list(check)
        if faults:
            yield from faults
            return


def _named(slot: Slot) -> bool:
    number = slot.id.removeprefix(f"{slot.model}/r")
    return number.isascii() and number.isdigit() and slot.id == slot_id(slot.model, int(number))


def _shape(facts: ModelFacts, slot: Slot) -> Iterator[str]:
    if slot.pp != len(slot.stages) or slot.tp < 1 or not slot.stages:
        yield f"has {len(slot.stages)} stages for pp {slot.pp} and tp {slot.tp}"
        return
    expected = 0
    for stage in slot.stages:
        first, end = stage.layers
        if first != expected or end <= first:
            yield f"layers {first} to {end} do not follow {expected}"
        expected = end
        if len(stage.devices) != slot.tp or len(set(stage.devices)) != slot.tp:
            yield f"a stage has {len(set(stage.devices))} devices for tp {slot.tp}"
    if expected != facts.layers:
        yield f"covers {expected} of {facts.layers} layers"
    if len({stage.shares for stage in slot.stages}) != 1:
        yield "its stages take different shares"
    if facts.heads % slot.tp or (facts.kv_heads % slot.tp and slot.tp % facts.kv_heads):
        yield f"tp {slot.tp} does not divide {facts.heads} heads and {facts.kv_heads} KV heads"


def _places(ground: Ground, demand: Demand, slot: Slot) -> Iterator[str]:
    for stage in slot.stages:
        node = ground.nodes.get(stage.node)
        missing = [d for d in stage.devices if d not in ground.devices]
        if node is None or missing:
            yield f"{stage.node} or {missing} does not exist"
            return
        yield from _node(demand, slot, node)
        devices = [ground.devices[d] for d in stage.devices]
        kind = slot.device_class if stage is slot.stages[0] else _class_of(ground, slot, stage)
        for device in devices:
            yield from _device(slot, stage, device, kind)
        if len({d.island for d in devices}) > 1:
            yield f"a TP group spans islands of {stage.node}"
        if len({d.speed for d in devices}) > 1:
            yield f"a TP group on {stage.node} joins throttled devices with others"


def _node(demand: Demand, slot: Slot, node: Node) -> Iterator[str]:
    if node.cordoned:
        yield f"{node.id} is cordoned"
    if demand.pin_nodes is not None and node.id not in demand.pin_nodes:
        yield f"{demand.id} is not pinned to {node.id}"
    if node.engines is not None and slot.engine not in node.engines:
        yield f"{slot.engine} cannot start on {node.id}"
    yield from absences(demand, slot, node)


def _class_of(ground: Ground, slot: Slot, stage: Stage) -> str:
    """Class that the devices of a stage must be of: the slot's, unless its engine runs pipelines over several classes."""
    engine = _facts_of_engine(ground, ground.classes[slot.device_class], slot)
    chains = engine is not None and engine.chain > 1
    return ground.devices[stage.devices[0]].device_class if chains else slot.device_class


def _device(slot: Slot, stage: Stage, device: Device, kind: str) -> Iterator[str]:
    if device.node != stage.node:
        yield f"{device.id} is not on {stage.node}"
    if device.device_class != kind:
        yield f"{device.id} is {device.device_class}, not {kind}"
    if device.health is not Health.HEALTHY:
        yield f"{device.id} is {device.health}"
    if device.emulated != slot.emulated:
        yield f"{device.id} is {'' if device.emulated else 'not '}emulated"
    if not 1 <= stage.shares <= device.shares:
        yield f"{stage.shares} shares of {device.id}, which has {device.shares}"


def _engine(
    ground: Ground, demand: Demand, facts: ModelFacts, device_class: DeviceClass, slot: Slot
) -> Iterator[str]:
    if (slot.engine == EMULATED) != slot.emulated:
        yield f"engine {slot.engine} on devices that are {'' if slot.emulated else 'not '}emulated"
        return
    engine = _facts_of_engine(ground, device_class, slot)
    if engine is None:
        yield f"{slot.engine} does not drive {device_class.name}"
        return
    if slot.tp not in engine.tp:
        yield f"{engine.name} takes no tp {slot.tp}"
    if engine.architectures and facts.architecture not in engine.architectures:
        yield f"{engine.name} does not know {facts.architecture}"
    if demand.engines is not None and slot.engine not in demand.engines:
        yield f"engine {slot.engine} was not asked for"
    if demand.arithmetic == "exact" and not engine.exact_with(device_class):
        yield f"{engine.name} has no exact arithmetic"
    for lacking in sorted(set(demand.requires) - set(engine.offers)):
        yield f"{engine.name} does not offer {lacking}"
    yield from _pipeline(ground, facts, engine, slot)
    for kind in dict.fromkeys(classes_of_stages(ground, slot)):
        yield from _class(demand, facts, kind, engine, slot)
    nodes = [ground.nodes[name] for name in dict.fromkeys(slot.nodes)]
    yield from file_faults(nodes, demand, facts, engine, slot)
    if device_class.kind is Kind.REMOTE:
        yield from _remote(demand, device_class, slot)


def classes_of_stages(ground: Ground, slot: Slot) -> tuple[DeviceClass, ...]:
    """The device class of each stage."""
    first = (ground.devices[stage.devices[0]] for stage in slot.stages)
    return tuple(at_speed(ground.classes[d.device_class], d.speed) for d in first)


def _speed(ground: Ground, slot: Slot) -> float:
    """Of the first device; `_device` refuses a stage whose devices differ."""
    first = ground.devices.get(slot.stages[0].devices[0]) if slot.stages else None
    return 1.0 if first is None else first.speed


def _plain(ground: Ground, facts: ModelFacts, engine: EngineFacts, slot: Slot) -> bool:
    """Whether all stages are alike, as every engine runs them."""
    fullest = max(end - first for first, end in (stage.layers for stage in slot.stages))
    alike = len(set(classes_of_stages(ground, slot))) == 1
    return alike and slot.pp <= engine.pp and fullest <= ceil(facts.layers / slot.pp)


def _pipeline(ground: Ground, facts: ModelFacts, engine: EngineFacts, slot: Slot) -> Iterator[str]:
    """Stages that are not alike, or more than an engine takes of those that are."""
    if _plain(ground, facts, engine, slot):
        return
    if slot.pp > engine.chain or slot.stages[0].shares != 1:
        layers = [end - first for first, end in (stage.layers for stage in slot.stages)]
        yield f"{engine.name} takes no pp {slot.pp} with stages of {layers} layers"
    for kind in classes_of_stages(ground, slot):
        if kind.vendor != ground.classes[slot.device_class].vendor:
            yield f"its stages are on devices of {kind.vendor} and of another vendor"
        if _facts_of_engine(ground, kind, slot) != engine:
            yield f"{slot.engine} on {kind.name} is not as on {slot.device_class}"


def _remote(demand: Demand, device_class: DeviceClass, slot: Slot) -> Iterator[str]:
    if device_class.endpoint is None or not offers(device_class.endpoint, demand):
        yield f"{device_class.name} does not offer {demand.id}"
    if slot.stages[0].shares != remote_layout(demand).shares:
        yield f"takes {slot.stages[0].shares} sequences of {demand.concurrency}"


def _class(
    demand: Demand,
    facts: ModelFacts,
    device_class: DeviceClass,
    engine: EngineFacts,
    slot: Slot,
) -> Iterator[str]:
    if slot.tp > 1 and not device_class.link_bytes_per_s:
        yield f"{device_class.name} has no link for tp {slot.tp}"
    if device_class.name in demand.banned:
        yield f"{device_class.name} is banned"
    if demand.dtype is not None and slot.dtype != demand.dtype:
        yield f"dtype {slot.dtype}, asked for is {demand.dtype}"
    if as_stored(facts, engine):
        return
    if slot.dtype not in {dtype for dtype, _ in device_class.flops} & set(engine.dtypes):
        yield f"{engine.name} on {device_class.name} does not compute {slot.dtype}"
    exact = engine.exact_dtypes if demand.arithmetic == "exact" else ()
    if exact and slot.dtype not in exact:
        yield f"{engine.name} is not exact in {slot.dtype}"


def _facts_of_engine(ground: Ground, device_class: DeviceClass, slot: Slot) -> EngineFacts | None:
    extra = ground.inventory.engines
    drivers = engines_for(device_class, emulated=slot.emulated, extra=extra)
    return next((e for e in drivers if e.name == slot.engine), None)


def _figures(
    ground: Ground, demand: Demand, facts: ModelFacts, device_class: DeviceClass, slot: Slot
) -> Iterator[str]:
    engine = _facts_of_engine(ground, device_class, slot)
    assert engine is not None
    if facts.window and demand.context > facts.window:
        yield f"context {demand.context} of a window of {facts.window}"
    if device_class.endpoint is None:
        yield from _memory(ground, demand, facts, engine, slot)
    elif slot.kv_bytes:
        yield f"reserves {slot.kv_bytes} bytes of KV cache on an endpoint"
    said = slot.predicted
    if not any(
        all(_same(getattr(said, name), getattr(expected, name)) for name in _FIGURES)
        for expected in _expected(ground, demand, facts, engine, slot)
    ):
        yield "its predicted figures are not those of the cost model"
    if demand.max_ttft_s is not None and said.ttft_s > demand.max_ttft_s * (1 + _RELATIVE):
        yield f"time to first token {said.ttft_s:.3f} s of {demand.max_ttft_s:.3f}"
    if demand.max_token_s is not None and said.token_s > demand.max_token_s * (1 + _RELATIVE):
        yield f"time per token {said.token_s:.4f} s of {demand.max_token_s:.4f}"


def _expected(
    ground: Ground, demand: Demand, facts: ModelFacts, engine: EngineFacts, slot: Slot
) -> Iterator[Predicted]:
    """What the slot does as stages that are alike, and as a chain of stages; they differ by what was measured."""
    if _plain(ground, facts, engine, slot):
        artifacts = ground.nodes[slot.nodes[0]].artifacts
        yield predicted(
            demand,
            facts,
            at_speed(ground.classes[slot.device_class], _speed(ground, slot)),
            engine,
            Layout(dtype=slot.dtype, tp=slot.tp, pp=slot.pp, shares=slot.stages[0].shares),
            device_shares=ground.devices[slot.stages[0].devices[0]].shares,
            hop=slowest_hop(ground.inventory),
            evidence=Evidence(artifacts=artifacts, calibrations=ground.inventory.calibrations),
        )
    if 1 < slot.pp <= engine.chain:
        yield _forecast(ground, demand, facts, engine, slot)[0]


def _forecast(
    ground: Ground, demand: Demand, facts: ModelFacts, engine: EngineFacts, slot: Slot
) -> tuple[Predicted, tuple[float, ...]]:
    """What a chain of those stages does, and the watts of each."""
    from .chain_figures import predict_chain  # with numpy: the package imports fast without it

    layers = [stage.layers[1] - stage.layers[0] for stage in slot.stages]
    found = predict_chain(
        demand,
        facts,
        engine,
        tuple(zip(classes_of_stages(ground, slot), layers, strict=True)),
        dtype=slot.dtype,
        tp=slot.tp,
        hop=slowest_hop(ground.inventory),
    )
    return found.predicted, found.stage_power_w


def stage_watts(ground: Ground, demand: Demand, slot: Slot) -> tuple[float, ...]:
    """Watts of each stage of a slot that has no faults; alike where the stages are of one class."""
    device_class = at_speed(ground.classes[slot.device_class], _speed(ground, slot))
    if len(set(classes_of_stages(ground, slot))) == 1:
        return (slot.predicted.power_w / slot.pp,) * slot.pp
    facts = facts_of(demand, ground.inventory)
    engine = _facts_of_engine(ground, device_class, slot)
    assert facts is not None and engine is not None
    return _forecast(ground, demand, facts, engine, slot)[1]


def _memory(
    ground: Ground, demand: Demand, facts: ModelFacts, engine: EngineFacts, slot: Slot
) -> Iterator[str]:
    """Bytes on each device: the stage's part of weights over tp, of KV over the KV heads' devices, and the engine's own."""
    stored = engine.stored_weights and facts.weights_bytes > 0
    weights = facts.weights_bytes if stored else facts.parameters * BYTES_PER_VALUE[slot.dtype]
    width = 4 if demand.arithmetic == "exact" else 2
    token = 2 * facts.layers * facts.kv_heads * facts.head_dim * width
    kv = token * demand.context * demand.concurrency
    if slot.kv_bytes != int(kv):
        yield f"reserves {slot.kv_bytes} bytes of KV cache, needed are {int(kv)}"
    for stage in slot.stages:
        part = (stage.layers[1] - stage.layers[0]) / facts.layers
        needed = part * (weights / slot.tp + kv / min(slot.tp, facts.kv_heads))
        for device in (ground.devices[d] for d in stage.devices):
            there = device.memory_bytes * stage.shares // device.shares
            if ceil(needed + engine.overhead_bytes) > there:
                yield f"needs {needed + engine.overhead_bytes:.0f} bytes of {there} on {device.id}"


def _same(claimed: float, expected: float) -> bool:
    return isclose(claimed, expected, rel_tol=_RELATIVE, abs_tol=1e-12)
