"""A context longer than the model was trained for is refused, whatever the devices."""

from __future__ import annotations

from ..constraint import Option
from ..plan import Rejection


def check_option(option: Option) -> Rejection | None:
    """Refuses a context beyond the model's window. Shortage in tokens."""
    window, context = option.facts.window, option.demand.context
    if not window or context <= window:
        return None
    return option.reject(
        "window",
        f"context {context} of a window of {window} tokens",
        shortage=context - window,
        hint=f"set models.{option.demand.id}.context to {window}",
    )
