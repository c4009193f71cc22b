"""An engine must offer what the demand requires of whatever serves its model, e.g. answers that follow a JSON schema."""

from __future__ import annotations

from ..constraint import Option
from ..plan import Rejection

NAME = "capability"


def check_option(option: Option) -> Rejection | None:
    """Refuses an engine that lacks a required capability."""
    engine, demand = option.engine, option.demand
    lacking = sorted(demand.requires - engine.offers)
    if not lacking:
        return None
    offered = ", ".join(sorted(engine.offers)) or "nothing that can be required"
    return option.reject(
        NAME,
        f"{engine.name} lacks {', '.join(lacking)}; it offers {offered}",
        hint=f"remove {', '.join(lacking)} from models.{demand.id}.requires, or name other engines",
    )
