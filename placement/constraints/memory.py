"""Weights, KV cache for context x concurrency and the engine's own share must fit on each device."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..constraint import Columns, Option
from ..plan import Rejection
from ..units import GIB, gib


def check_option(option: Option) -> Rejection | None:
    """Refuses what does not fit; needs the prediction. Shortage in GiB per device."""
    if option.layout is None or option.predicted is None:
        return None
    needed = option.predicted.memory_bytes
    there = option.pool.memory_bytes * option.layout.shares // option.pool.shares
    if needed <= there:
        return None
    where = "on each device" if option.pool.shares == 1 else f"in {option.layout.shares} shares"
    return option.reject(
        "memory",
        f"needs {gib(needed)} of {there / GIB:.1f} {where}",
        shortage=round((needed - there) / GIB, 3),
        resolvable=True,
    )


def excess(columns: Columns) -> Any:
    """GiB missing on each device."""
    pool = columns.pool
    there = [pool.memory_bytes * layout.shares // pool.shares for layout in columns.layouts]
    return (columns.figures["memory_bytes"] - np.array(there, dtype=np.float64)) / GIB
