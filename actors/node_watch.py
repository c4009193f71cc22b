"""Keeps what is known of a node fresh without ever making its reports late: slow looks run in threads of their own.

A vendor's tool may hang and a model hub may be silent; the lease of the node must not depend on either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from placement.inventory import ModelPresence

from .prober import Prober
from .report import NodeReport

log = structlog.get_logger()

PROBE_PERIOD_S = 1.0
"""Between two polls of what the devices do; a look at everything is due more rarely (`actors.prober`)."""

MISSING_RETRY_S = 10.0
MOST_SOURCES = 256
"""Model sources remembered; a cluster serves fewer models than that."""


class Presences:
    """Which of the wanted model sources this node has; a missing one is looked for again from time to time."""

    def __init__(
        self,
        resolve: Callable[[str], ModelPresence],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolve = resolve
        self._now = now
        self._known: dict[str, tuple[float, ModelPresence]] = {}

    def look(self, wanted: tuple[str, ...]) -> None:
        """Resolves what is not known yet, or was missing a while ago."""
        for source in wanted[:MOST_SOURCES]:
            checked_at, presence = self._known.get(source, (float("-inf"), None))
            stale = self._now() - checked_at > MISSING_RETRY_S
            if presence is None or (not presence.present and stale):
                self._known = {**self._known, source: (self._now(), self._resolve(source))}

    def known(self) -> tuple[ModelPresence, ...]:
        """All answers, sorted by source."""
        known = self._known
        return tuple(known[source][1] for source in sorted(known))


class NodeWatch:
    """Probes and resolves in the background; `report` is always at once.

    Args:
        on_probed: called in the probing thread with every report, before it is handed out.
    """

    def __init__(
        self,
        prober: Prober,
        resolve: Callable[[str], ModelPresence],
        on_probed: Callable[[NodeReport], None],
    ) -> None:
        self._prober = prober
        self._presences = Presences(resolve)
        self._on_probed = on_probed
        self._probed: NodeReport | None = None
        self._wanted: tuple[str, ...] = ()
        self._asked = threading.Event()
        self._fresh = threading.Event()

    def start(self) -> None:
        """Starts both threads; they end with the process."""
        for name, look in (("probe", self._probe), ("sources", self._look)):
            threading.Thread(target=_forever, args=(name, look), daemon=True, name=name).start()

    def want(self, sources: tuple[str, ...]) -> None:
        """The model sources that somebody asks for now."""
        if sources != self._wanted:
            self._wanted = sources
            self._asked.set()

    def wait(self, timeout_s: float) -> None:
        """Returns when there may be something new, at the latest after the time."""
        self._fresh.wait(timeout_s)
        self._fresh.clear()

    def report(self) -> NodeReport | None:
        """The newest knowledge; None before the first look is done."""
        if self._probed is None:
            return None
        return replace(self._probed, models=self._presences.known())

    def _probe(self) -> None:
        before, report = self._probed, self._prober.poll()
        self._on_probed(report)
        self._probed = report
        if before is None or report.lasting() != before.lasting():
            self._fresh.set()
        time.sleep(PROBE_PERIOD_S)

    def _look(self) -> None:
        self._asked.wait(MISSING_RETRY_S)
        self._asked.clear()
        before = self._presences.known()
        self._presences.look(self._wanted)
        if self._presences.known() != before:
            self._fresh.set()


def _forever(name: str, look: Callable[[], None]) -> None:
    while True:
        try:
            look()
        except Exception:
            log.exception("node.look_failed", look=name)
            time.sleep(PROBE_PERIOD_S)
