"""How much of the RAM a device that has no memory of its own may hold.

Decides nothing but that part. It must not know whose device it is.
"""

from __future__ import annotations

import re

from ..host import Host
from ..quantities import size_bytes


def half_of_ram(host: Host) -> int | None:
    """Half of the machine's RAM, which is what kernels let such devices pin; None when it is not told."""
    found = re.search(
        r"^MemTotal:\s{1,40}([0-9]{1,15}) kB", host.read("/proc/meminfo") or "", re.MULTILINE
    )
    size = size_bytes(found[1], "KiB") if found else None
    return None if size is None else size // 2
