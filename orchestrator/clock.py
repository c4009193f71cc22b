"""The wall's monotonic clock, behind the port that tests replace."""

from __future__ import annotations

import time


class WallClock:
    """Monotonic seconds of this machine."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        return time.monotonic()
