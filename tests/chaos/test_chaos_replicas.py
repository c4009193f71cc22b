"""Replicas of a real model are killed and frozen under streams: each stream ends as the protocol says, nobody hangs."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from support.lab import command_line, until
from support.load import DONE, ERROR_FRAME, Answer, ask, chat_body, load
from support.measured import measured

from orchestrator import proc_fs

STREAMS = 20
LIMIT_S = 90.0
STUCK_S = 3.0
GATEWAY_NOTICES_S = 12.0
"""Five pings without an answer, one a second, and the time of the attempt elsewhere on a busy machine."""


@contextmanager
def streams(endpoint: str, begun_at_least: int) -> Iterator[list[Future[Answer]]]:
    """Long streams, of which some have begun."""
    begun = [threading.Event() for _ in range(STREAMS)]
    bodies = [
        chat_body(f"Write a long story about the number {n}.", stream=True, max_tokens=120)
        for n in range(STREAMS)
    ]
    with ThreadPoolExecutor(STREAMS) as pool:
        running = [pool.submit(ask, endpoint, b, e) for b, e in zip(bodies, begun, strict=True)]
        until(lambda: sum(e.is_set() for e in begun) >= begun_at_least, 30.0, "streams begin")
        yield running


def all_ended_well(running: list[Future[Answer]], victim: str) -> list[Answer]:
    """Every answer; those that broke were streaming from the victim and say so."""
    deadline = time.monotonic() + LIMIT_S
    answers = [future.result(max(0.1, deadline - time.monotonic())) for future in running]
    broken = [a for a in answers if a.outcome != DONE]
    says = [f"{a.outcome} {a.replica} {a.streaming} {a.detail}" for a in broken]
    assert {a.outcome for a in broken} <= {ERROR_FRAME}, says
    assert all(a.replica == victim and a.streaming for a in broken), says
    assert all('"replica_lost"' in a.detail for a in broken), says
    return broken


@pytest.mark.parametrize("seed", [1, 2])
def test_streams_of_a_killed_replica_end_in_error_frames_and_all_others_complete(
    pair, seed: int
) -> None:
    chance = random.Random(seed)
    rows = pair.yard.replicas()
    victim = chance.choice(sorted(rows))
    with streams(pair.endpoint, chance.randint(10, 14)) as running:
        os.kill(rows[victim]["pid"], signal.SIGKILL)
        assert all_ended_well(running, victim), "the victim had streams"
    pair.wait_until_whole(without=rows[victim]["incarnation"])


def worker_of(replica: dict[str, Any]) -> int:
    """The engine's process below a replica."""
    rows = proc_fs.processes().values()
    (pid,) = (
        row.pid
        for row in rows
        if row.ppid == replica["pid"] and "actors.worker.main" in command_line(row.pid)
    )
    return pid


def test_a_killed_engine_ends_its_streams_and_comes_back_in_a_new_process(pair) -> None:
    rows = pair.yard.replicas()
    victim = sorted(rows)[1]
    worker = worker_of(rows[victim])
    with streams(pair.endpoint, 12) as running:
        os.kill(worker, signal.SIGKILL)
        assert all_ended_well(running, victim), "the victim had streams"
    again = pair.wait_until_whole(without=rows[victim]["incarnation"])
    assert again[victim]["pid"] != rows[victim]["pid"]
    assert worker_of(again[victim]) != worker
    bodies = [chat_body(f"hello {n}", max_tokens=4) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: ask(pair.endpoint, body), bodies))
    assert {a.outcome for a in answers} == {DONE}
    assert victim in {a.replica for a in answers}


def test_the_engine_of_a_killed_replica_dies_with_it(pair) -> None:
    rows = pair.yard.replicas()
    victim = min(rows)
    worker = worker_of(rows[victim])
    os.kill(rows[victim]["pid"], signal.SIGKILL)
    until(lambda: proc_fs.process(worker) is None, 10.0, "the engine's process ends")
    pair.wait_until_whole(without=rows[victim]["incarnation"])


def test_a_frozen_replica_is_left_and_replaced(pair) -> None:
    rows = pair.yard.replicas()
    victim, other = sorted(rows)
    frozen = rows[victim]["pid"]
    os.kill(frozen, signal.SIGSTOP)
    frozen_at = time.monotonic()
    with load(pair.endpoint, 4, max_tokens=4) as clients:
        until(lambda: clients.slowest_s() > STUCK_S, 30.0, "a request was stuck and went elsewhere")
        asked = clients.count()
        until(lambda: clients.count() >= asked + 20, 30.0, "requests succeed again")
    outcomes = clients.stop()
    measured(
        "seconds of the slowest request beside a frozen replica", round(clients.slowest_s(), 2)
    )
    assert set(outcomes) == {DONE}, [a.detail for a in clients.answers]
    assert clients.slowest_s() < GATEWAY_NOTICES_S
    assert {a.replica for a in clients.answers[-16:]} == {other}
    pair.wait_until_whole(without=rows[victim]["incarnation"])
    measured(
        "seconds to the replacement of a frozen replica", round(time.monotonic() - frozen_at, 2)
    )
    until(lambda: proc_fs.process(frozen) is None, 60.0, "the frozen process is ended")
    measured("seconds to the end of a frozen process", round(time.monotonic() - frozen_at, 2))
