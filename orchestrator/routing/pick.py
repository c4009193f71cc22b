"""Which replica answers a request: filter, score, pick. Pure, and explains itself.

It must not know connections: what a gateway has observed of a replica comes in as its `ReplicaLoad`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from actors.engine import UNKNOWN
from actors.needs import unmet
from actors.wire import Open

from .replicas import ModelEntry, RegistryTable, ReplicaEntry

ReplicaKey = tuple[str, str]
"""Slot and incarnation: a restarted replica is another one."""

LOADING_RETRY_S = 5.0
UNHEALTHY_RETRY_S = 2.0
FULL_RETRY_S = 1.0


class ReplicaLoad(Protocol):
    """What this gateway observes of a replica."""

    @property
    def state(self) -> str:
        """As the replica last said; `down` while there is no connection."""
        ...

    @property
    def outstanding(self) -> int:
        """Requests in the replica, of all gateways as far as known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """The replica that shall answer; `why` gives its score and among how many it won."""

    replica: ReplicaEntry
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No replica can answer now.

    Attributes:
        reason: the client-facing code.
        considered: every replica of the model with what speaks against it.
    """

    reason: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    considered: tuple[tuple[str, str], ...] = ()


def key_of(replica: ReplicaEntry) -> ReplicaKey:
    """The key under which loads are kept."""
    return replica.slot, replica.incarnation


def pick(
    table: RegistryTable,
    model: str,
    loads: Mapping[ReplicaKey, ReplicaLoad],
    *,
    request: Open | None = None,
    exclude: Collection[ReplicaKey] = (),
    turn: int = 0,
) -> Picked | Refusal:
    """The least loaded ready replica of a model that can do what is asked, the faster one of two; equals take turns.

    A replica on throttled or failing devices counts as that much more loaded.

    Args:
        request: what is asked; None = something that every engine can.
        exclude: replicas that this request was already tried on.
        turn: a number that grows by one per request.
    """
    best: list[ReplicaEntry] = []
    best_score = (float("inf"), 0.0)
    for replica in table.replicas:
        if replica.model != model or _against(replica, loads, exclude, request):
            continue
        score = (_score(replica, loads), -replica.speed)
        if score < best_score:
            best, best_score = [replica], score
        elif score == best_score:
            best.append(replica)
    if not best:
        return _refusal(table, model, loads, exclude, request)
    chosen = best[turn % len(best)]
    slowed = f", at {chosen.speed:.0%} speed" if chosen.speed < 1.0 else ""
    return Picked(replica=chosen, why=f"load {best_score[0]:.2f}, {len(best)} equal{slowed}")


def _score(replica: ReplicaEntry, loads: Mapping[ReplicaKey, ReplicaLoad]) -> float:
    return loads[key_of(replica)].outstanding / (replica.concurrency * replica.speed)


def _against(
    replica: ReplicaEntry,
    loads: Mapping[ReplicaKey, ReplicaLoad],
    exclude: Collection[ReplicaKey],
    request: Open | None,
) -> str:
    """What speaks against a replica; empty when nothing does."""
    key = (replica.slot, replica.incarnation)
    load = loads.get(key)
    if load is None or load.state == "down":
        return "loading" if replica.state == "loading" else "not connected"
    if load.state != "ready":
        return load.state
    need = unmet(request, replica.capabilities) if request is not None else None
    if need is not None:
        return need.says
    if key in exclude:
        return "tried"
    if load.outstanding >= replica.concurrency + replica.queue:
        return "full"
    return ""


def _refusal(
    table: RegistryTable,
    model: str,
    loads: Mapping[ReplicaKey, ReplicaLoad],
    exclude: Collection[ReplicaKey],
    request: Open | None,
) -> Refusal:
    known = next((entry for entry in table.models if entry.id == model), None)
    ours = [r for r in table.replicas if r.model == model]
    considered = tuple((r.slot, _against(r, loads, exclude, request)) for r in ours)
    if table.version < 0:
        return Refusal(
            reason="no_healthy_replica",
            message="the gateway has not heard from the controller yet; try again later",
            retry_after_s=UNHEALTHY_RETRY_S,
        )
    if known is None and not considered:
        return _unknown(table, model)
    unable = _unable(ours, request)
    if unable is not None:
        return replace(unable, considered=considered)
    reasons = {why for _, why in considered}
    if "full" in reasons:
        return Refusal(
            reason="queue_full",
            message="every replica of the model is busy and its queue is full; try again later",
            retry_after_s=FULL_RETRY_S,
            considered=considered,
        )
    if "loading" in reasons or (not reasons and not (known and known.problem)):
        return Refusal(
            reason="model_loading",
            message="the model is still loading; try again later",
            retry_after_s=LOADING_RETRY_S,
            considered=considered,
        )
    return Refusal(
        reason="no_healthy_replica",
        message="no replica of the model can answer now; try again later",
        retry_after_s=UNHEALTHY_RETRY_S,
        considered=considered,
    )


def _unable(replicas: Sequence[ReplicaEntry], request: Open | None) -> Refusal | None:
    """That no replica will ever answer, when each one says what it can do and none can do what is asked."""
    if request is None or not replicas or not all(map(_has_said, replicas)):
        return None
    needs = [unmet(request, r.capabilities) for r in replicas]
    first = needs[0]
    if first is None or None in needs:
        return None
    engines = ", ".join(sorted({r.engine for r in replicas}))
    return Refusal(
        reason="unsupported_parameter",
        message=f"`{first.param}` cannot be honoured: no replica of the model can, as each ({engines}) {first.says}",
        param=first.param,
    )


def _has_said(replica: ReplicaEntry) -> bool:
    """Whether it has told what it can do: one that failed before it was loaded may load yet."""
    return replica.state == "ready" or (
        replica.state != "loading" and replica.capabilities != UNKNOWN
    )


def _unknown(table: RegistryTable, model: str) -> Refusal:
    names = [entry.id for entry in table.models]
    near = difflib.get_close_matches(model[:200], names, n=1)
    hint = f"did you mean {near[0]}?" if near else "GET /v1/models lists the models"
    return Refusal(
        reason="model_not_found",
        message=f"the model {_shown(model)} does not exist; {hint}",
        param="model",
    )


def _shown(model: str) -> str:
    return repr(model if len(model) <= 100 else model[:100] + "...")


def model_state(
    entry: ModelEntry, table: RegistryTable, loads: Mapping[ReplicaKey, ReplicaLoad]
) -> tuple[str, int]:
    """State of a model name for people (`ready`, `loading`, `failed`) and its number of ready replicas."""
    states = [
        loads[key_of(r)].state if key_of(r) in loads else r.state
        for r in table.replicas
        if r.model == entry.id
    ]
    ready = states.count("ready")
    if ready:
        return "ready", ready
    return ("failed" if entry.problem or "failed" in states else "loading"), 0
