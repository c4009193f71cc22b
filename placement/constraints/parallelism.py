"""How far a model can be cut: heads over a TP group, layers over stages, a group inside one interconnect island."""

from __future__ import annotations

from ..constraint import Option
from ..plan import Rejection

NAME = "parallelism"


def check_option(option: Option) -> Rejection | None:
    """Refuses a TP size or a number of stages that the model or the devices cannot take; needs the layout."""
    return _heads(option) or _group(option) or _stages(option)


def _heads(option: Option) -> Rejection | None:
    if option.layout is None:
        return None
    tp, facts = option.layout.tp, option.facts
    if facts.heads % tp:
        return option.reject(NAME, f"{facts.heads} heads do not divide over tp {tp}")
    if facts.kv_heads % tp and tp % facts.kv_heads:
        return option.reject(NAME, f"{facts.kv_heads} KV heads do not divide over tp {tp}")
    return None


def _group(option: Option) -> Rejection | None:
    if option.layout is None or option.layout.tp == 1:
        return None
    tp, pool = option.layout.tp, option.pool
    if not pool.device_class.link_bytes_per_s:
        return option.reject(NAME, f"{pool.device_class.name} has no link for a group of {tp}")
    largest = max((len(block.devices) for block in pool.blocks), default=0)
    if largest < tp:
        return option.reject(
            NAME,
            f"tp {tp} needs {tp} equal devices in one island, the largest has {largest}",
            shortage=tp - largest,
            resolvable=True,
        )
    return None


def _stages(option: Option) -> Rejection | None:
    if option.layout is None or option.layout.pp <= option.facts.layers:
        return None
    return option.reject(
        NAME, f"{option.facts.layers} layers do not divide over {option.layout.pp} stages"
    )
