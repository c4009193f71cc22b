"""New work goes only to nodes that nobody has cordoned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..demand import Demand
from ..inventory import Node
from ..plan import Rejection


def check_node(demand: Demand, node: Node) -> Rejection | None:
    """Refuses a cordoned node."""
    if not node.cordoned:
        return None
    return Rejection(
        model=demand.id,
        constraint="availability",
        node=node.id,
        reason=f"node {node.id} is cordoned"
        + (f": {node.cordon_reason}" if node.cordon_reason else ""),
        resolvable=True,
        hint=f"lift the cordon of {node.id}",
    )


def refuse_nodes(demands: Sequence[Demand], nodes: Sequence[Node]) -> Iterator[Rejection]:
    """Refuses cordoned nodes to everybody."""
    cordoned = [node for node in nodes if node.cordoned]
    yield from (r for d in demands for n in cordoned if (r := check_node(d, n)))
