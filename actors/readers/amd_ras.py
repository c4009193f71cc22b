"""AMD's counters of memory errors (RAS) as sysfs tells them.

Decides which of them speak against a card. It must not know cards.
"""

from __future__ import annotations

from ..host import Host
from ..quantities import attribute, whole


def faults(host: Host, folder: str) -> tuple[str, ...]:
    """Memory errors that ECC could not correct since the driver was loaded; wrong results may follow."""
    for line in attribute(host.read(f"{folder}/ras/umc_err_count")).splitlines():
        key, _, value = line.partition(":")
        count = whole(value.strip())
        if key.strip() == "ue" and count:
            return (f"{count} uncorrectable memory errors",)
    return ()
