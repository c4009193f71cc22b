"""Units at the edge of the core: everything inside is bytes, seconds, watts, bytes per second.

Users write GiB and Gbit/s; these constants are the only place that converts.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024**2
GIB = 1024**3

GBIT = 1e9 / 8
"""Bytes per second in one Gbit/s."""

GBYTE = 1e9
"""Bytes per second in one GB/s, as data sheets count."""

TERA = 1e12


def gib(size_bytes: float) -> str:
    """A size for people, in GiB with one decimal.

    >>> gib(26.14 * GIB)
    '26.1 GiB'
    """
    return f"{size_bytes / GIB:.1f} GiB"
