"""A compiled NPU engine runs what was compiled for it: an artifact of another TP size on the node settles the layout."""

from __future__ import annotations

from ..constraint import Option
from ..plan import Rejection


def check_option(option: Option) -> Rejection | None:
    """Refuses a TP size other than those compiled, where a node holds artifacts of the model; needs the layout."""
    if option.layout is None or not option.engine.build_s:
        return None
    name = option.pool.device_class.name
    sizes = sorted(
        a.tp
        for a in option.pool.artifacts
        if a.model == option.demand.id and a.device_class == name
    )
    if not sizes or option.layout.tp in sizes:
        return None
    return option.reject(
        "artifact",
        f"compiled for tp {', '.join(map(str, sizes))} there, not for tp {option.layout.tp}",
        resolvable=True,
        hint=f"compile {option.demand.id} for {name} tp {option.layout.tp}",
    )
