"""A model's replicas together cost no more per hour than asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..constraint import Columns, Option, Row, Scope
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


def excess(columns: Columns) -> Any:
    """Price per hour beyond the model's own limit."""
    return columns.figures["price_per_hour"] - np.array(
        columns.limit(lambda d: d.max_price_per_hour)
    )


def rows(scope: Scope) -> Iterator[Row]:
    """One row per model with a ceiling."""
    for demand in scope.app.demands:
        if demand.max_price_per_hour is not None:
            own = scope.of_model.get(demand.id, ())
            amounts = {k: scope.candidates[k].predicted.price_per_hour for k in own}
            yield Row(name=f"price:{demand.id}", limit=demand.max_price_per_hour, amounts=amounts)
