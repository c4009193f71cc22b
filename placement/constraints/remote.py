"""A model goes to a remote endpoint only where its source or the endpoint's operator says so."""

from __future__ import annotations

from ..constraint import Option
from ..devices import Kind
from ..plan import Rejection
from ..remote import offers

NAME = "remote"


def check_option(option: Option) -> Rejection | None:
    """Refuses an endpoint that does not offer the model or takes fewer sequences at once."""
    device_class, demand = option.pool.device_class, option.demand
    if device_class.kind is not Kind.REMOTE:
        return None
    if device_class.endpoint is None or not offers(device_class.endpoint, demand):
        return option.reject(
            NAME,
            f"{device_class.name} does not offer {demand.id}",
            hint=f"add {demand.id} to `models` of {device_class.name} in the inventory",
        )
    if demand.concurrency > option.pool.shares:
        return option.reject(
            NAME,
            f"{demand.concurrency} sequences at once of {option.pool.shares} that {device_class.name} takes",
            shortage=demand.concurrency - option.pool.shares,
            resolvable=True,
            hint=f"set models.{demand.id}.concurrency to {option.pool.shares}",
        )
    return None
