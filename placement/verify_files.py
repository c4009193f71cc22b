"""Checks the files that one slot loads: sources, their forms, compiled artifacts. Part of the verifier.

Like it, shares no code with the solver; knows no devices and no figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .demand import Demand
from .engine_facts import EngineFacts
from .inventory import Artifact, Node
from .modelspec import ModelFacts
from .plan import Slot
from .remote import is_remote


def absences(demand: Demand, slot: Slot, node: Node) -> Iterator[str]:
    """Sources that a slot needs and that a node says it does not have."""
    if node.models is None:
        return
    for source in _needed(demand, slot, node):
        presence = node.presence(source)
        if presence is None or not presence.present:
            yield f"{source} is not on {node.id}"


def _needed(demand: Demand, slot: Slot, node: Node) -> set[str]:
    """Sources that must lie on a node; those of an endpoint lie with it."""
    needed = {demand.model.tokenizer} | (set() if slot.emulated else {demand.model.source})
    real = any(not device.emulated for device in node.devices)
    return {s for s in needed if not (real and is_remote(s))}


def as_stored(facts: ModelFacts, engine: EngineFacts) -> bool:
    """Whether weights stay in the dtype in which they lie there."""
    return engine.stored_weights and facts.weights_bytes > 0


def file_faults(
    nodes: Iterable[Node], demand: Demand, facts: ModelFacts, engine: EngineFacts, slot: Slot
) -> Iterator[str]:
    """Nodes of a slot where its engine cannot read what there is of the model, or would need another artifact."""
    for node in nodes:
        if not slot.emulated:
            yield from _readable(node, demand, facts, engine, slot)
        if engine.build_s:
            yield from _built(node, demand, slot)


def _readable(
    node: Node, demand: Demand, facts: ModelFacts, engine: EngineFacts, slot: Slot
) -> Iterator[str]:
    """Forms that the node tells decide; where it tells none, the kind of source does."""
    source = demand.model.source
    presence = node.presence(source)
    forms = presence.forms if presence is not None else ()
    if not forms or not engine.formats:
        scheme = source.partition("://")[0]
        if engine.schemes and scheme not in engine.schemes:
            yield f"{engine.name} does not read {scheme}:// sources"
        return
    own = [form for form in forms if form.format in engine.formats]
    if not own:
        yield f"{engine.name} reads no form of {source} on {node.id}"
    elif not as_stored(facts, engine) and not any(f.dtype in (None, slot.dtype) for f in own):
        yield f"{source} is not prepared in {slot.dtype} on {node.id}"


def _built(node: Node, demand: Demand, slot: Slot) -> Iterator[str]:
    held = _compiled(node, demand, slot)
    if held and not any(_runs(a, demand, slot) for a in held):
        sizes = sorted({a.tp for a in held})
        yield f"compiled on {node.id} for tp {sizes} and other buckets, not for tp {slot.tp}"
    if not held and demand.build == "never":
        yield f"nothing is compiled on {node.id}, and building is not allowed"


def _compiled(node: Node, demand: Demand, slot: Slot) -> list[Artifact]:
    return [
        a for a in node.artifacts if a.model == demand.id and a.device_class == slot.device_class
    ]


def _runs(artifact: Artifact, demand: Demand, slot: Slot) -> bool:
    """Whether a compiled model has the slot's TP size and dtype, and holds what is asked at once."""
    return (
        artifact.tp == slot.tp
        and artifact.dtype in (None, slot.dtype)
        and (artifact.batch == 0 or artifact.batch >= demand.concurrency)
        and (artifact.length == 0 or artifact.length >= demand.context)
    )
