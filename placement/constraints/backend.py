"""An engine must drive the device class, be able to start on the node, know the model's graph and be asked for."""

from __future__ import annotations

from ..constraint import Option
from ..plan import Rejection

NAME = "backend"


def check_option(option: Option) -> Rejection | None:
    """Refuses an engine that is absent, not asked for, or does not know the architecture or the arithmetic."""
    return _absent(option) or _unwanted(option) or _foreign(option)


def _absent(option: Option) -> Rejection | None:
    engines, name = option.pool.engines, option.engine.name
    if engines is None or name in engines:
        return None
    return option.reject(
        NAME,
        f"{name} cannot start there; these can: {', '.join(sorted(engines)) or 'none'}",
        resolvable=True,
        hint=f"install {name} on nodes with {option.pool.device_class.name}",
    )


def _unwanted(option: Option) -> Rejection | None:
    wanted, name = option.demand.engines, option.engine.name
    if wanted is None or name in wanted:
        return None
    return option.reject(
        NAME,
        f"{option.pool.device_class.name} is driven by {name}, asked for is {', '.join(sorted(wanted))}",
        hint=f"add {name} to models.{option.demand.id}.engines",
    )


def _foreign(option: Option) -> Rejection | None:
    engine, graph = option.engine, option.facts.architecture
    if engine.architectures and graph not in engine.architectures:
        return option.reject(NAME, f"{engine.name} does not know the architecture {graph}")
    device_class = option.pool.device_class
    if option.demand.arithmetic == "exact" and not engine.exact_with(device_class):
        where = f" on {device_class.name}" if engine.exact else ""
        return option.reject(
            NAME,
            f"{engine.name} has no exact arithmetic{where}",
            hint=f"set models.{option.demand.id}.arithmetic to fast",
        )
    return None
