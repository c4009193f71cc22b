"""A dtype must be one that the engine offers and the device class computes, and that the model was prepared in where a node
tells so; stored weights stay as they are.
"""

from __future__ import annotations

from ..constraint import Option
from ..forms import prepare_command
from ..layout import stored_dtype
from ..plan import Rejection

NAME = "precision"


def check_option(option: Option) -> Rejection | None:
    """Refuses a dtype that cannot run; needs the layout."""
    if option.layout is None:
        return None
    engine, offered = option.engine, option.computed
    as_stored = engine.stored_weights and option.facts.weights_bytes > 0
    if as_stored and offered and option.layout.dtype == stored_dtype(option.facts):
        return None
    if option.layout.dtype not in offered:
        return _uncomputed(option)
    if as_stored:
        return option.reject(
            NAME,
            f"{engine.name} keeps weights as stored ({stored_dtype(option.facts)}), asked for is {option.layout.dtype}",
            hint=f"set models.{option.demand.id}.dtype to auto",
        )
    return _unprepared(option)


def _uncomputed(option: Option) -> Rejection:
    assert option.layout is not None
    offered = ", ".join(option.computed)
    how = " exactly" if option.demand.arithmetic == "exact" and option.engine.exact_dtypes else ""
    return option.reject(
        NAME,
        f"{option.engine.name} on {option.pool.device_class.name} computes {offered or 'nothing'}{how},"
        f" not {option.layout.dtype}",
        hint=f"set models.{option.demand.id}.dtype to auto or one of {offered}",
    )


def _unprepared(option: Option) -> Rejection | None:
    assert option.layout is not None
    settled, dtype = option.settled, option.layout.dtype
    if not settled or dtype in settled:
        return None
    command = prepare_command(option.demand.model.source, option.engine, dtype)
    return option.reject(
        NAME,
        f"prepared there for {option.engine.name} as {', '.join(settled)}, not as {dtype}",
        resolvable=True,
        hint=command or f"set models.{option.demand.id}.dtype to auto",
    )
