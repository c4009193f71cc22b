"""A replica starts only where its weights and its tokenizer lie. A declared device needs the tokenizer alone.

Where a node tells in which forms the weights lie, an engine must read one of them. A rejection names the node's own reason
and the command that mends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..constraint import Option
from ..demand import Demand
from ..forms import prepare_command, readable
from ..inventory import ModelForm, Node
from ..plan import Rejection
from ..remote import is_remote

NAME = "model_missing"


def check_node(demand: Demand, node: Node) -> Rejection | None:
    """Refuses a node that lacks a source that some device of it would need."""
    if node.models is None:
        return None
    real = any(not device.emulated for device in node.devices)
    model = demand.model
    # An endpoint has its own weights and tokenizer.
    needed = [s for s in (model.source, model.tokenizer) if not is_remote(s)]
    absent = (_missing(demand, node, s) for s in (needed if real else (model.tokenizer,)))
    return next(filter(None, absent), None)


def refuse_nodes(demands: Sequence[Demand], nodes: Sequence[Node]) -> Iterator[Rejection]:
    """Refuses nodes that were asked and lack something."""
    asked = [node for node in nodes if node.models is not None]
    yield from (r for d in demands for n in asked if (r := check_node(d, n)))


def check_option(option: Option) -> Rejection | None:
    """Refuses an engine that reads none of the forms that are told, or, where none are, not that kind of source."""
    if option.pool.emulated:
        return None
    forms = option.pool.forms_of(option.demand.model.source)
    return _unread(option, forms) if forms and option.engine.formats else _foreign(option)


def _unread(option: Option, forms: frozenset[ModelForm]) -> Rejection | None:
    if readable(forms, option.engine):
        return None
    engine, source = option.engine, option.demand.model.source
    formats = ", ".join(sorted(engine.formats))
    there = ", ".join(sorted({form.format for form in forms}))
    command = prepare_command(source, engine)
    return option.reject(
        NAME,
        f"{engine.name} reads {formats}, and {source} lies there as {there} alone",
        resolvable=True,
        hint=command or f"bring {source} there as {formats}",
    )


def _foreign(option: Option) -> Rejection | None:
    scheme = option.demand.model.source.partition("://")[0]
    schemes = option.engine.schemes
    if not schemes or scheme in schemes:
        return None
    return option.reject(
        NAME,
        f"{option.engine.name} reads {', '.join(sorted(schemes))} sources, not {scheme}://",
        hint=f"give models.{option.demand.id}.source as one of {', '.join(sorted(schemes))}",
    )


def _missing(demand: Demand, node: Node, source: str) -> Rejection | None:
    presence = node.presence(source)
    if presence is not None and presence.present:
        return None
    return Rejection(
        model=demand.id,
        constraint=NAME,
        node=node.id,
        reason=f"{source} is not on {node.id}"
        + (f": {presence.reason}" if presence and presence.reason else ""),
        resolvable=True,
        hint=presence.hint if presence else f"check that {node.id} was asked for {source}",
    )
