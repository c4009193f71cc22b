"""A dtype must be one that the engine offers and the device class computes; stored weights stay as they are."""

from __future__ import annotations

from ..constraint import Option
from ..layout import stored_dtype
from ..plan import Rejection

NAME = "precision"


def check_option(option: Option) -> Rejection | None:
    """Refuses a dtype that cannot run; needs the layout."""
    if option.layout is None:
        return None
    dtype, engine, device_class = option.layout.dtype, option.engine, option.pool.device_class
    offered = [d for d, _ in device_class.flops if d in engine.dtypes]
    as_stored = engine.stored_weights and option.facts.weights_bytes > 0
    if as_stored and dtype == stored_dtype(option.facts) and offered:
        return None
    if dtype not in offered:
        return option.reject(
            NAME,
            f"{engine.name} on {device_class.name} computes {', '.join(offered) or 'nothing'}, not {dtype}",
            hint=f"set models.{option.demand.id}.dtype to auto or one of {', '.join(offered)}",
        )
    if as_stored:
        return option.reject(
            NAME,
            f"{engine.name} keeps weights as stored ({stored_dtype(option.facts)}), asked for is {dtype}",
            hint=f"set models.{option.demand.id}.dtype to auto",
        )
    return None
