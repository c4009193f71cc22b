"""Predicted time to first token and time per token must keep to what is asked."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..constraint import Columns, Option
from ..plan import Rejection

NAME = "latency"


def check_option(option: Option) -> Rejection | None:
    """Refuses what is predicted too slow; needs the prediction. Shortage in seconds."""
    if option.predicted is None:
        return None
    demand, predicted = option.demand, option.predicted
    return _late(option, "time to first token", predicted.ttft_s, demand.max_ttft_s) or _late(
        option, "time per token", predicted.token_s, demand.max_token_s
    )


def excess(columns: Columns) -> Any:
    """Seconds beyond the tighter of both limits."""
    first = columns.figures["ttft_s"] - np.array(columns.limit(lambda d: d.max_ttft_s))
    token = columns.figures["token_s"] - np.array(columns.limit(lambda d: d.max_token_s))
    return np.maximum(first, token)


def _late(option: Option, what: str, expected_s: float, limit_s: float | None) -> Rejection | None:
    if limit_s is None or expected_s <= limit_s:
        return None
    return option.reject(
        NAME,
        f"{what} {expected_s * 1e3:.1f} ms of {limit_s * 1e3:.1f}",
        shortage=expected_s - limit_s,
        resolvable=True,
    )
