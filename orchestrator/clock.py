"""The clocks of this machine, behind the port that tests replace."""

from __future__ import annotations

import time


class WallClock:
    """Monotonic seconds and the date of this machine."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        return time.monotonic()

    def unix_s(self) -> int:
        """Seconds since 1970."""
        return int(time.time())
