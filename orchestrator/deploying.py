"""From a running controller to served models: waits for the nodes, applies a spec, follows its replicas until ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from .client import Client
from .errors import ControlError, TimedOut
from .spec import Spec
from .waiting import until_ready

NODES_TIMEOUT_S = 90.0
DEVICES_TIMEOUT_S = 30.0
"""A lab's devices that are not there by then are planned without."""

READY_TIMEOUT_S = 900.0
GATEWAY_TIMEOUT_S = 60.0
POLL_S = 0.2

Say = Callable[[str], None]


class SpecInfeasible(ControlError):
    """No placement satisfies the spec; `document` is the solver's whole answer."""

    code = "placement.infeasible"


def deploy(client: Client, spec: Spec, yaml: str, say: Say) -> None:
    """Applies a spec and returns once every planned replica is ready.

    Raises:
        SpecInfeasible: with the first reason and the first fix.
        TimedOut: a replica did not become ready.
    """
    answer = client.apply(spec.app, yaml)
    document = answer["document"]
    if not answer["accepted"]:
        raise refusal(document)
    slots = {slot["slot"] for slot in document["slots"]}
    say(f"planned {len(slots)} replicas, {_quality(document)}")
    for slot in document["slots"]:
        devices = ", ".join(d for stage in slot["stages"] for d in stage["devices"])
        say(f"  {slot['slot']} on {devices} with {slot['engine']}")
    told: dict[str, str] = {}
    for rows in until_ready(client.replicas, READY_TIMEOUT_S, slots=slots):
        for row in rows:
            _tell(row, told, say)


def refusal(document: dict[str, Any]) -> SpecInfeasible:
    """The solver's "no" as an error: the first reasons, and the first fix as the hint."""
    reasons = [f"{r['model']}: {r['reason']}" for r in document["rejections"][:3]]
    fixes = [fix["says"] for fix in document["fixes"]]
    return SpecInfeasible(
        "the spec cannot be placed: " + ("; ".join(reasons) or ", ".join(document["conflict"])),
        hint=f"try: {fixes[0]}" if fixes else "shardyard plan SPEC --explain",
        document=document,
    )


def wait_for_nodes(client: Client, count: int, say: Say, *, devices: int = 0) -> None:
    """Returns once `count` nodes have reported, and so many devices or for DEVICES_TIMEOUT_S none more.

    Raises:
        TimedOut: after NODES_TIMEOUT_S.
    """
    deadline = time.monotonic() + NODES_TIMEOUT_S
    while True:
        status = client.status()
        there = status["nodes"] >= count and status["nodes_silent"] <= 0
        late = time.monotonic() > deadline - NODES_TIMEOUT_S + DEVICES_TIMEOUT_S
        if there and (status["devices"] >= devices or late):
            break
        if time.monotonic() > deadline:
            says = f"only {status['nodes']} of {count} nodes reported in {NODES_TIMEOUT_S:.0f} s"
            raise TimedOut(says, hint="shardyard devices    then    shardyard logs controller")
        time.sleep(POLL_S)
    say(f"{_plural(status['nodes'], 'node')} reported {_plural(status['devices'], 'device')}")


def wait_for_gateway(endpoint: str) -> None:
    """Returns once a gateway answers at the OpenAI endpoint; Serve's own proxy may come up after the replicas.

    Raises:
        TimedOut: after GATEWAY_TIMEOUT_S.
    """
    url = endpoint.removesuffix("/v1") + "/live"
    deadline = time.monotonic() + GATEWAY_TIMEOUT_S
    with httpx.Client(timeout=POLL_S * 10, trust_env=False) as http:
        while not _answers(http, url):
            if time.monotonic() > deadline:
                says = f"no gateway answers at {endpoint} after {GATEWAY_TIMEOUT_S:.0f} s"
                raise TimedOut(says, hint="shardyard logs gateway")
            time.sleep(POLL_S)


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).is_success
    except httpx.TransportError:
        return False


def _quality(document: dict[str, Any]) -> str:
    return "proven optimal" if document["proven"] else f"at most {document['gap']:.2%} from optimal"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _tell(row: dict[str, Any], told: dict[str, str], say: Say) -> None:
    now = str(row["state"])
    if now == "loading":
        now += f", {int(row['load_ratio'] * 4) * 25} %"
    if row.get("detail"):
        now += f": {row['detail']}"
    if told.get(row["slot"]) != now:
        told[row["slot"]] = now
        say(f"  {row['slot']} is {now}")
