"""New work goes only to nodes that nobody has cordoned."""

from __future__ import annotations

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
