"""A model pinned to nodes runs only there; a banned device class is never used for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..constraint import Option
from ..demand import Demand
from ..inventory import Node
from ..plan import Rejection


def check_node(demand: Demand, node: Node) -> Rejection | None:
    """Refuses a node that the model is not pinned to."""
    if demand.pin_nodes is None or node.id in demand.pin_nodes:
        return None
    return Rejection(
        model=demand.id,
        constraint="pins",
        node=node.id,
        reason=f"{demand.id} is pinned to {', '.join(sorted(demand.pin_nodes))}, not to {node.id}",
        hint=f"add {node.id} to models.{demand.id}.constraints.pin.node",
    )


def refuse_nodes(demands: Sequence[Demand], nodes: Sequence[Node]) -> Iterator[Rejection]:
    """Refuses all other nodes to pinned models."""
    pinned = [demand for demand in demands if demand.pin_nodes is not None]
    yield from (r for d in pinned for n in nodes if (r := check_node(d, n)))


def check_option(option: Option) -> Rejection | None:
    """Refuses a banned device class."""
    name = option.pool.device_class.name
    if name not in option.demand.banned:
        return None
    return option.reject(
        "pins",
        f"{name} is banned for {option.demand.id}",
        hint=f"remove {name} from models.{option.demand.id}.constraints.banned_hardware",
    )
