"""A replica starts only where its weights and its tokenizer lie. A declared device needs the tokenizer alone.

A rejection names the node's own reason and the command that mends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..constraint import Option
from ..demand import Demand
from ..inventory import Node
from ..plan import Rejection


def check_node(demand: Demand, node: Node) -> Rejection | None:
    """Refuses a node that lacks a source that some device of it would need."""
    if node.models is None:
        return None
    real = any(not device.emulated for device in node.devices)
    needed = (demand.model.source, demand.model.tokenizer) if real else (demand.model.tokenizer,)
    return next((r for source in needed if (r := _missing(demand, node, source))), None)


def refuse_nodes(demands: Sequence[Demand], nodes: Sequence[Node]) -> Iterator[Rejection]:
    """Refuses nodes that were asked and lack something."""
    asked = [node for node in nodes if node.models is not None]
    yield from (r for d in demands for n in asked if (r := check_node(d, n)))


def check_option(option: Option) -> Rejection | None:
    """Refuses an engine that cannot read the model's kind of source."""
    scheme = option.demand.model.source.partition("://")[0]
    schemes = option.engine.schemes
    if option.pool.emulated or not schemes or scheme in schemes:
        return None
    return option.reject(
        "model_missing",
        f"{option.engine.name} reads {', '.join(sorted(schemes))} sources, not {scheme}://",
        hint=f"give models.{option.demand.id}.source as one of {', '.join(sorted(schemes))}",
    )


def _missing(demand: Demand, node: Node, source: str) -> Rejection | None:
    presence = node.presence(source)
    if presence is not None and presence.present:
        return None
    return Rejection(
        model=demand.id,
        constraint="model_missing",
        node=node.id,
        reason=f"{source} is not on {node.id}"
        + (f": {presence.reason}" if presence and presence.reason else ""),
        resolvable=True,
        hint=presence.hint if presence else f"check that {node.id} was asked for {source}",
    )
