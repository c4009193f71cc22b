"""Which processes of one engine a pipeline over nodes becomes, when the engine's own process group spans them.

Decides what such a group can be: as many stages on each node, neighbours on one node next to each other, all layers
in order. Pure; it must not know engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from ..engine import StagePlace
from ..errors import LoadFailed
from .spec import When


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNode:
    """What one node gives to a group.

    Attributes:
        host: its address.
        handles: launch handles of its devices, those of earlier stages first.
        stages: of the pipeline, how many it runs.
    """

    host: str
    handles: tuple[str, ...]
    stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A process of an engine on another node than its server's, started together with it.

    It does not end when the server does, nor soon on SIGTERM: whoever starts it watches the server and kills its
    process group.

    Attributes:
        handles: launch handles of its devices, which its environment has to be narrowed to there.
        argv: its command; `{bin}` and `{model}` are left to be filled in on its node.
        variables: its environment variables beyond those that tell it its devices; unset the ones that are empty.
    """

    host: str
    handles: tuple[str, ...]
    argv: tuple[str, ...]
    variables: Mapping[str, str]


def peer(
    node: GroupNode,
    command: Sequence[str | When],
    variables: Mapping[str, str],
    values: Mapping[str, str],
) -> Peer:
    """The process on a node, of a server's templates and their values."""
    literal = {name: value.replace("{", "{{").replace("}", "}}") for name, value in values.items()}
    left = {"bin": "{bin}", "model": "{model}"}
    argv = (
        word
        for part in command
        for word in (part if isinstance(part, When) else When("bin", part)).filled(literal | left)
    )
    return Peer(
        host=node.host,
        handles=node.handles,
        argv=tuple(argv),
        variables={name: text.format_map(values) for name, text in variables.items()},
    )


def group_nodes(stages: Sequence[StagePlace], tp: int) -> tuple[GroupNode, ...]:
    """The nodes of a pipeline in the order of their ranks; stages without an address are all on one node.

    >>> pipeline = [StagePlace(host=h, handles=(d,), layers=(0, 1)) for h, d in (("a", "0"), ("b", "0"))]
    >>> [node.host for node in group_nodes(pipeline, 1)]
    ['a', 'b']

    Raises:
        LoadFailed: ranks cannot be dealt out so.
    """
    nodes = tuple(_node(host, list(mine)) for host, mine in groupby(stages, lambda s: s.host))
    hosts = [node.host for node in nodes]
    if len(set(hosts)) < len(hosts):
        raise _refused(f"a node has stages that are not neighbours: {', '.join(hosts)}")
    if len({node.stages for node in nodes}) > 1:
        each = ", ".join(f"{node.host} {node.stages}" for node in nodes)
        raise _refused(f"the nodes have different numbers of stages ({each})")
    for stage in stages:
        if len(stage.handles) != tp:
            raise _refused(
                f"a stage on {stage.host or 'this node'} has {len(stage.handles)} devices, tp is {tp}"
            )
    return nodes


def layer_counts(stages: Sequence[StagePlace], layers: int) -> tuple[int, ...]:
    """How many layers each stage holds.

    Raises:
        LoadFailed: they are not all layers of the model in order.
    """
    bounds = [0, *(stage.layers[1] for stage in stages)]
    begins = [stage.layers[0] for stage in stages]
    counts = tuple(end - begin for begin, end in pairwise(bounds))
    if begins != bounds[:-1] or bounds[-1] != layers or min(counts, default=0) < 1:
        given = ", ".join(f"[{first}, {end})" for first, end in (s.layers for s in stages))
        raise _refused(f"the stages hold layers {given}, not all {layers} in order")
    return counts


def _node(host: str, stages: Sequence[StagePlace]) -> GroupNode:
    handles = tuple(handle for stage in stages for handle in stage.handles)
    return GroupNode(host=host, handles=handles, stages=len(stages))


def _refused(why: str) -> LoadFailed:
    return LoadFailed(
        f"{why}; this engine's processes cannot form such a group",
        hint="plan this model with equal stages per node, or with another engine: shardyard explain MODEL",
    )
