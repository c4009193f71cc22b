"""The load of a vendor's server, from its Prometheus page.

Decides how old a figure may be and what a missing one means. It must not know the names; they are the vendor's data.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping

import structlog
from prometheus_client.parser import text_string_to_metric_families

from ..engine import EngineStats
from ..errors import EngineError
from ..openai.stream import OpenAIClient

log = structlog.get_logger()

METRICS_LOST = "metrics.lost"

YOUNG_S = 1.0
DEADLINE_S = 1.0
_MOST = 1_000_000


class Scrape:
    """The last figures of one server.

    Args:
        names: `running`, `waiting`, `kv_used_ratio` -> name of the server's own metric.
    """

    def __init__(self, client: OpenAIClient, url: str, names: Mapping[str, str]) -> None:
        self._client = client
        self._url = url
        self._names = dict(names)
        self._asked = -math.inf
        self._values: dict[str, list[float]] = {}
        self._lock = asyncio.Lock()

    async def stats(self) -> EngineStats:
        """Figures at most a second old, 0 where the server tells none; never more requests than we have there."""
        async with self._lock:
            if self._names and time.monotonic() - self._asked >= YOUNG_S:
                await self._ask()
                self._asked = time.monotonic()
        here = self._client.open
        running = min(here, self._count("running"))
        return EngineStats(
            running=running,
            waiting=min(here - running, self._count("waiting")),
            kv_used_ratio=min(1.0, max([0.0, *self._of("kv_used_ratio")])),
        )

    async def _ask(self) -> None:
        try:
            text = await self._client.get(self._url, DEADLINE_S)
            self._values = samples(text, tuple(self._names.values()))
        except (EngineError, ValueError) as error:
            log.debug(METRICS_LOST, reason=str(error))

    def _of(self, figure: str) -> list[float]:
        return self._values.get(self._names.get(figure, ""), [])

    def _count(self, figure: str) -> int:
        return int(min(_MOST, max(0.0, sum(self._of(figure)))))


def samples(text: str, names: tuple[str, ...]) -> dict[str, list[float]]:
    """The finite values of these metrics, whatever their labels.

    Raises:
        ValueError: a line of one of them is in no known form.
    """
    # The parser is slow, and servers tell thousands of lines.
    lines = [line for line in text.splitlines() if line.startswith(names)]
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name in names and math.isfinite(sample.value):
                found.setdefault(sample.name, []).append(float(sample.value))
    return found
