"""All copies of a model together reach the asked throughput."""

from __future__ import annotations

from collections.abc import Iterator

from ..constraint import Row, Scope


def rows(scope: Scope) -> Iterator[Row]:
    """One row per model that must run: at most -minimum in negative tokens per second.

    A model that may stay away owes nothing when it does, which no row can say; the search keeps that rule itself.
    """
    for demand in scope.app.demands:
        if demand.min_tokens_per_s is not None and demand.replicas_min > 0:
            own = scope.of_model.get(demand.id, ())
            amounts = {k: -scope.candidates[k].predicted.tokens_per_s for k in own}
            name = f"throughput:{demand.id}"
            yield Row(name=name, limit=-demand.min_tokens_per_s, amounts=amounts)
