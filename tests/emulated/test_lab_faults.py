"""Processes of a live lab are killed while clients ask: nobody who asks anew notices."""

from __future__ import annotations

import os
import signal
import time

import httpx
import pytest
from support.lab import listeners, until
from support.load import BARE_EOF, DONE, ERROR_FRAME, ask, chat_body, load
from support.measured import measured

CLIENTS = 8
BACK_S = 15.0
"""Generous: 2 s and the predicted load time on a machine with nothing else to do."""


@pytest.fixture
def whole(lab):
    """A lab in which everything runs, before and after."""
    wait_until_whole(lab)
    yield lab
    wait_until_whole(lab)


def wait_until_whole(lab) -> None:
    def is_whole() -> bool:
        rows = lab.yard.replicas().values()
        return len(rows) == 4 and all(row["state"] == "ready" for row in rows)

    until(is_whole, 40.0, "all replicas ready")
    until(lambda: listeners(lab.port) == 2, 40.0, "both gateways listening")


@pytest.mark.parametrize("victim", ["NVIDIA_H100_80G", "CPU"])
def test_a_killed_replica_loses_no_new_request_and_returns(whole, victim: str) -> None:
    rows = whole.yard.replicas()
    (slot,) = (s for s, row in rows.items() if row["device_class"] == victim)
    with load(whole.endpoint, CLIENTS, max_tokens=100) as clients:
        until(lambda: clients.count() > 20, 30.0, "clients are at work")
        killed_at = time.monotonic()
        os.kill(rows[slot]["pid"], signal.SIGKILL)

        def back() -> bool:
            row = whole.yard.replicas().get(slot, {})
            again = row.get("incarnation", "") not in ("", rows[slot]["incarnation"])
            return again and row["state"] == "ready"

        until(back, BACK_S, f"{slot} is registered again")
        took_s = time.monotonic() - killed_at
        asked = clients.count()
        until(lambda: clients.count() > asked + 40, 30.0, "clients go on")
    outcomes = clients.stop()
    measured(f"seconds to the replacement of {slot} ({victim})", round(took_s, 2))
    measured(f"answers around the kill of {slot}", dict(outcomes))
    assert set(outcomes) <= {DONE, ERROR_FRAME}, details(clients.answers)
    broken = [a for a in clients.answers if a.outcome == ERROR_FRAME]
    assert all(a.streaming and a.replica == slot for a in broken), details(broken)
    assert len(broken) <= CLIENTS
    served = {a.replica for a in clients.answers[-40:]}
    assert slot in served, "the new replica gets requests"


def details(answers) -> list[str]:
    return [f"{a.outcome} {a.replica} {a.detail}" for a in answers if a.outcome != DONE]


def test_a_killed_gateway_refuses_no_connection(whole) -> None:
    (victim,) = whole.yard.pids("shardyard-gateway-0")
    with load(whole.endpoint, CLIENTS, max_tokens=20) as clients:
        until(lambda: clients.count() > 20, 30.0, "clients are at work")
        os.kill(victim, signal.SIGKILL)
        asked = clients.count()
        until(lambda: clients.count() > asked + 100, 30.0, "clients go on")
        until(lambda: listeners(whole.port) == 2, 30.0, "the gateway is back")
    outcomes = clients.stop()
    # What the victim had accepted, or the kernel had queued for it, ends with it; nothing else does.
    assert set(outcomes) <= {DONE, "RemoteProtocolError", "ReadError"}, details(clients.answers)
    assert outcomes.total() - outcomes[DONE] <= CLIENTS, details(clients.answers)
    assert whole.yard.pids("shardyard-gateway-0") - {victim}


def test_requests_go_on_without_the_controller_which_returns(whole) -> None:
    before = whole.yard.json("status")
    running = {slot: row["incarnation"] for slot, row in whole.yard.replicas().items()}
    victim = before["controller_pid"]
    with load(whole.endpoint, CLIENTS, max_tokens=20) as clients:
        until(lambda: clients.count() > 20, 30.0, "clients are at work")
        os.kill(victim, signal.SIGKILL)
        until(lambda: whole.yard.pids("_ControllerHost") - {victim}, 30.0, "a new controller")
        until(lambda: whole.yard.attempt("status")[0] == 0, 40.0, "status works again")
    outcomes = clients.stop()
    assert set(outcomes) == {DONE}, details(clients.answers)
    after = whole.yard.json("status")
    assert after["controller_pid"] != victim
    assert (after["revision"], after["endpoint"]) == (before["revision"], before["endpoint"])
    wait_until_whole(whole)
    assert {s: r["incarnation"] for s, r in whole.yard.replicas().items()} == running


def test_a_disconnected_client_frees_its_place(whole) -> None:
    with httpx.Client(timeout=30, trust_env=False) as http:
        for _ in range(20):
            with http.stream(
                "POST", f"{whole.endpoint}/chat/completions", json=chat_body(stream=True)
            ) as response:
                next(response.iter_bytes())
    answer = ask(whole.endpoint, chat_body(max_tokens=3))
    assert answer.outcome not in (BARE_EOF, ERROR_FRAME)
    assert answer.outcome == DONE
