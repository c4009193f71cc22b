"""A model's replicas together cost no more per hour than asked."""

from __future__ import annotations

from collections.abc import Iterator

from ..constraint import Option, Row, Scope
from ..plan import Rejection


def check_option(option: Option) -> Rejection | None:
    """Refuses a replica that alone costs too much; needs the prediction. Shortage per hour."""
    limit, predicted = option.demand.max_price_per_hour, option.predicted
    if limit is None or predicted is None or predicted.price_per_hour <= limit:
        return None
    return option.reject(
        "price",
        f"costs {predicted.price_per_hour:.2f} per hour of {limit:.2f}",
        shortage=predicted.price_per_hour - limit,
        resolvable=True,
    )


def rows(scope: Scope) -> Iterator[Row]:
    """One row per model with a ceiling."""
    for demand in scope.app.demands:
        if demand.max_price_per_hour is not None:
            amounts = {
                k: c.predicted.price_per_hour
                for k, c in enumerate(scope.candidates)
                if c.model == demand.id
            }
            yield Row(name=f"price:{demand.id}", limit=demand.max_price_per_hour, amounts=amounts)
