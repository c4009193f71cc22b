"""Remote OpenAI endpoints that the operator names, as devices: one share for each sequence that one takes at once.

Decides what an endpoint's list of models says of it, and what is assumed of its speed. It must not know what is sent
there, and never tells a key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import ClassVar
from urllib.parse import urlsplit

from placement.devices import BYTES_PER_VALUE, DeviceClass, Endpoint, Health, Kind
from placement.ids import NodeId
from placement.units import TERA

from ..host import Fetched, Host
from ..probe import Absent, Accelerator, Broken, Found
from ..quantities import document, text_of
from ..readers.remote_entries import Entry, entries
from ..remote_gate import objection
from ..report import Reading

REMOTE_ENV = "SHARDYARD_REMOTE"
TIMEOUT_S = 1.5
LOOK_DEADLINE_S = 3.5
POLL_DEADLINE_S = 1.8
POLL_PERIOD_S = 30.0
ASSUMED_TOKENS_PER_S = 20.0
ASSUMED_TTFT_S = 0.5
ASSUMED_UNCERTAINTY = 1.0
DECLARED_UNCERTAINTY = 0.5
MOST_MODELS = 500


class RemoteProbe:
    """Asks each endpoint for its models. Remembers the shortest answers, and which endpoints have been there.

    Args:
        deadline_s: when endpoints that hang are given up.
    """

    name: ClassVar[str] = "remote"
    watches: ClassVar[tuple[str, ...]] = ()

    def __init__(self, deadline_s: float = LOOK_DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._shortest_s: dict[str, float] = {}
        self._known: dict[str, tuple[Accelerator, DeviceClass]] = {}
        self._polled_at: float | None = None
        self._readings: dict[str, Reading] = {}

    def probe(self, host: Host, node: NodeId) -> Found | Absent | Broken:
        """See `Probe`. An endpoint that has been there and does not answer is lost, one that never did is broken."""
        del node
        text = host.env(REMOTE_ENV)
        if not text:
            return Absent()
        named, broken = entries(REMOTE_ENV, text)
        if not named:
            return broken[0] if broken else Absent()
        made: list[tuple[Accelerator, DeviceClass]] = []
        for entry, answer in zip(named, _side_by_side(host, named, self._deadline_s), strict=True):
            one, wrong = self._device(entry, answer)
            made += [one] if one is not None else []
            broken += wrong
        self._polled_at, self._readings = (
            host.clock_s(),
            {one.identity: Reading(faults=one.evidence) for one, _ in made},
        )
        return Found(
            accelerators=tuple(one for one, _ in made),
            classes=tuple(known for _, known in made),
            broken=tuple(broken),
        )

    def poll(self, host: Host, found: Found) -> Mapping[str, Reading]:
        """See `LiveProbe`. Asks at most every 30 s; in between, the last answers stand."""
        now = host.clock_s()
        there = {one.identity for one in found.accelerators}
        if self._polled_at is not None and now - self._polled_at < POLL_PERIOD_S:
            return {name: said for name, said in self._readings.items() if name in there}
        self._polled_at = now
        named, _ = entries(REMOTE_ENV, host.env(REMOTE_ENV) or "[]")
        asked = [entry for entry in named if _identity(entry) in there]
        answers = _side_by_side(host, asked, min(self._deadline_s, POLL_DEADLINE_S))
        self._readings = {
            _identity(entry): Reading(faults=(answer.reason,) if isinstance(answer, Broken) else ())
            for entry, answer in zip(asked, answers, strict=True)
        }
        return self._readings

    def _device(
        self, entry: Entry, answer: Fetched | Broken
    ) -> tuple[tuple[Accelerator, DeviceClass] | None, list[Broken]]:
        offered = _offered(entry, answer) if isinstance(answer, Fetched) else answer
        if isinstance(offered, Broken) or isinstance(answer, Broken):
            wrong = (
                offered if isinstance(offered, Broken) else Broken(reason=f"{entry.title} fails")
            )
            return self._lost(entry, wrong), [wrong]
        seconds = max(0.0, answer.seconds)
        self._shortest_s[entry.root] = min(seconds, self._shortest_s.get(entry.root, math.inf))
        models, missing = _chosen(entry, offered)
        known = _class(entry, models, self._shortest_s[entry.root])
        one = _accelerator(entry, known)
        self._known[entry.root] = one, known
        if not missing:
            return (one, known), []
        reason = f"{entry.title} does not offer {', '.join(map(entry.theirs, missing))}"
        return (one, known), [Broken(reason=reason, hint=f"it offers {', '.join(offered[:8])}")]

    def _lost(self, entry: Entry, wrong: Broken) -> tuple[Accelerator, DeviceClass] | None:
        before = self._known.get(entry.root)
        if before is None:
            return None
        one = _accelerator(entry, before[1], health=Health.LOST, evidence=(wrong.reason,))
        return one, before[1]


def _side_by_side(host: Host, named: Sequence[Entry], deadline_s: float) -> list[Fetched | Broken]:
    """All endpoints at once. One that hangs, in the look-up of its name say, keeps no other waiting."""
    if not named:
        return []
    pool = ThreadPoolExecutor(len(named), thread_name_prefix="remote")
    asked = [pool.submit(_asked, host, entry) for entry in named]
    wait(asked, deadline_s)
    pool.shutdown(wait=False, cancel_futures=True)
    return [_outcome(entry, one) for entry, one in zip(named, asked, strict=True)]


def _outcome(entry: Entry, asked: Future[Fetched | Broken]) -> Fetched | Broken:
    return asked.result() if asked.done() else _silent(entry)


def _silent(entry: Entry, why: str = "") -> Broken:
    why = why or f"no whole answer within {TIMEOUT_S:g} s"
    return Broken(
        reason=f"{entry.title} cannot be asked: {why}",
        hint=f"see whether it is up: curl -m 5 {entry.root}/models",
    )


def _asked(host: Host, entry: Entry) -> Fetched | Broken:
    """The list of models, or in one sentence why there is none."""
    key = host.env(entry.api_key_env) if entry.api_key_env else None
    if entry.api_key_env and not (key and key.isascii() and key.isprintable()):
        return Broken(
            reason=f"{entry.title}: {entry.api_key_env} holds no key",
            hint=f"set {entry.api_key_env} where the node's agent is started",
        )
    said = objection(_literal(entry), allow_private=entry.allow_private) if _literal(entry) else ""
    if said:
        return _inside(entry, said)
    headers = {"authorization": f"Bearer {key}"} if key else None
    answer = host.fetch(f"{entry.root}/models", TIMEOUT_S, headers)
    if answer is None or not answer.status:
        return _silent(entry, answer.text if answer is not None else "")
    if answer.private and not entry.allow_private:
        return _inside(entry, "its address is not public")
    return _refused(entry, answer.status) or answer


def _literal(entry: Entry) -> str:
    """The host of an address that is written as numbers; empty for a name."""
    host = urlsplit(entry.url).hostname or ""
    return host if ":" in host or host.replace(".", "").isdigit() else ""


def _inside(entry: Entry, why: str) -> Broken:
    return Broken(
        reason=f"{entry.title}: {why}",
        hint=f'add "allow_private": true to its entry in {REMOTE_ENV} if it is meant',
    )


def _refused(entry: Entry, status: int) -> Broken | None:
    if 200 <= status < 300:
        return None
    if status in (401, 403):
        named = entry.api_key_env or "api_key_env"
        says, hint = "refuses the key", f"check {named} of {REMOTE_ENV}"
    elif 300 <= status < 400:
        says, hint = "redirects", f"write the address where it leads into {REMOTE_ENV}"
    elif status in (404, 405):
        says, hint = "has no list of models", f"write its OpenAI address into {REMOTE_ENV}"
    elif status == 429:
        says, hint = "takes no more requests", "ask its operator for a higher limit"
    else:
        says, hint = "fails", "see its own log"
    return Broken(reason=f"{entry.title} {says} (status {status})", hint=hint)


def _offered(entry: Entry, answer: Fetched) -> list[str] | Broken:
    said = document(answer.text)
    rows = said.get("data") if isinstance(said, dict) else None
    if not isinstance(rows, list):
        return Broken(
            reason=f"{entry.title} answers {entry.root}/models with something else",
            hint=f"write its OpenAI address into {REMOTE_ENV}",
        )
    ids = (text_of(row.get("id")) for row in rows[:MOST_MODELS] if isinstance(row, dict))
    names = list(dict.fromkeys(name for name in ids if name))
    if not names:
        return Broken(reason=f"{entry.title} offers no model", hint="load a model there")
    return names


def _chosen(entry: Entry, offered: Sequence[str]) -> tuple[frozenset[str], list[str]]:
    """Models that may be sent there, and those that the operator names in vain."""
    named = [*entry.names] if entry.models is None else entry.models
    missing = [name for name in named if entry.theirs(name) not in offered]
    there = frozenset(named).difference(missing)
    return (there | frozenset(offered) if entry.models is None else there), missing


def _class(entry: Entry, models: frozenset[str], seconds: float) -> DeviceClass:
    """A class of its own. Its latency moves in coarse steps: each change of a class is a new inventory."""
    declared_s = ASSUMED_TTFT_S if entry.ttft_ms is None else entry.ttft_ms / 1e3
    assumed = entry.tokens_per_s is None
    uncertainty = ASSUMED_UNCERTAINTY if assumed else DECLARED_UNCERTAINTY
    return DeviceClass(
        name=f"REMOTE_{entry.label}"[:80],
        vendor="unknown",
        kind=Kind.REMOTE,
        memory_bytes=0,
        bandwidth_bytes_per_s=0.0,
        flops=tuple((dtype, TERA) for dtype in sorted(BYTES_PER_VALUE)),
        power_w=0.0,
        uncertainty=uncertainty if entry.uncertainty is None else entry.uncertainty,
        source=f"asked for its models; tokens_per_s {'assumed' if assumed else 'declared'}",
        endpoint=Endpoint(
            url=f"openai+{entry.root}",
            models=models,
            tokens_per_s=entry.tokens_per_s or ASSUMED_TOKENS_PER_S,
            ttft_s=max(declared_s, step_up(seconds)),
            price_per_million_tokens=entry.price_per_million_tokens,
        ),
    )


def step_up(seconds: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... ms.

    >>> step_up(0.0), step_up(0.013), step_up(0.2), step_up(0.21)
    (0.001, 0.02, 0.2, 0.5)
    """
    steps = [m * 10.0**e / 1000 for e in range(5) for m in (1, 2, 5)]
    return next((step for step in steps if step >= seconds), seconds)


def _accelerator(
    entry: Entry,
    known: DeviceClass,
    *,
    health: Health = Health.HEALTHY,
    evidence: tuple[str, ...] = (),
) -> Accelerator:
    return Accelerator(
        family="remote",
        product=entry.title,
        device_class=known.name,
        handle=entry.root,
        uuid=_uuid(entry),
        shares=entry.concurrency,
        health=health,
        evidence=evidence,
        notes=_notes(entry, known),
    )


def _notes(entry: Entry, known: DeviceClass) -> tuple[tuple[str, str], ...]:
    assert known.endpoint is not None
    said = [("models", str(len(known.endpoint.models)))]
    if entry.tokens_per_s is None:
        said.append(("tokens_per_s", f"assumed {ASSUMED_TOKENS_PER_S:g}; declare it for a plan"))
    if entry.ttft_ms is None:
        said.append(("ttft_ms", "assumed, at least what its list of models takes"))
    if entry.api_key_env and entry.url.startswith("http:"):
        said.append(("transport", "its key goes over the network in the clear"))
    return tuple(said)


def _uuid(entry: Entry) -> str:
    return entry.root.partition("://")[2]


def _identity(entry: Entry) -> str:
    return f"remote:{_uuid(entry)}"
