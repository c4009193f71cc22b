"""A compiled NPU engine runs what was compiled for it: artifacts on the node settle TP size and dtype."""

from __future__ import annotations

from ..artifacts import compiled, matches
from ..constraint import Option
from ..inventory import Artifact
from ..plan import Rejection

NAME = "artifact"


def check_option(option: Option) -> Rejection | None:
    """Refuses what no artifact there is of, and what would have to be built against the demand's will; needs the layout."""
    layout = option.layout
    if layout is None or not option.engine.build_s:
        return None
    held = compiled(option.pool.artifacts, option.demand, option.pool.device_class.name)
    if not held:
        return _unbuilt(option)
    if any(matches(a, layout) for a in held):
        return None
    kinds = sorted({_kind(a) for a in held})
    return option.reject(
        NAME,
        f"compiled for {', '.join(kinds)} there, not for tp {layout.tp} {layout.dtype}",
        resolvable=True,
        hint=_command(option),
    )


def _unbuilt(option: Option) -> Rejection | None:
    if option.demand.build == "allowed":
        return None
    return option.reject(
        NAME,
        f"nothing is compiled for {option.pool.device_class.name} there, and building is never allowed",
        resolvable=True,
        hint=f"{_command(option)}, or set models.{option.demand.id}.artifacts.build to allowed",
    )


def _command(option: Option) -> str:
    assert option.layout is not None
    name = option.pool.device_class.name
    return f"compile {option.demand.id} for {name} tp {option.layout.tp} {option.layout.dtype}"


def _kind(artifact: Artifact) -> str:
    return f"tp {artifact.tp}" + (f" {artifact.dtype}" if artifact.dtype else "")
