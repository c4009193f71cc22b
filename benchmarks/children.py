"""Child processes of a benchmark: started one by one, asked over pipes, ended with it. They end themselves when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
END_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 300.0


@dataclass
class Child:
    """A process that answers each line of JSON with one of its own."""

    process: subprocess.Popen[str]

    def read(self) -> Any:
        """Its next answer; whoever says nothing for too long is killed, which ends the wait."""
        assert self.process.stdout is not None
        alarm = threading.Timer(ANSWER_TIMEOUT_S, self.process.kill)
        alarm.start()
        try:
            line = self.process.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            raise RuntimeError(f"{self.process.args} ended without an answer")
        return json.loads(line)

    def ask(self, question: Mapping[str, Any]) -> Any:
        """One question, one answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.read()


@contextmanager
def children() -> Generator[list[Child]]:
    """A list to append children to; all of them are ended, last first."""
    started: list[Child] = []
    try:
        yield started
    finally:
        for child in reversed(started):
            child.process.terminate()
        for child in started:
            try:
                child.process.wait(timeout=END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()


def start(module: str, *arguments: str, variables: Mapping[str, str] | None = None) -> Child:
    """Starts `python -m module arguments`, with more variables in its environment."""
    return Child(
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(variables or {})},
        )
    )


def say(answer: Any) -> None:
    """In a child: one answer."""
    print(json.dumps(answer), flush=True)


async def until_told() -> None:
    """In a child: until the parent ends us, or closes the pipe by dying."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    loop.add_reader(sys.stdin.fileno(), told.set)
    await told.wait()


async def questions() -> AsyncGenerator[Any]:
    """In a child: what the parent asks, until it ends us or dies. It waits for each answer before it asks again."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    source = sys.stdin.fileno()
    loop.add_signal_handler(signal.SIGTERM, heard.put_nowait, b"")
    loop.add_reader(source, lambda: heard.put_nowait(os.read(source, 1 << 16)))
    try:
        while line := await heard.get():
            yield json.loads(line)
    finally:
        loop.remove_reader(source)


@dataclass
class Cluster:
    """A `shardyard up --foreground` of our own: state, port and temporary folder apart from any other.

    Attributes:
        lines: what it printed, with the seconds since its start.
    """

    process: subprocess.Popen[str]
    port: int
    state: Path
    began: float
    lines: list[tuple[float, str]] = field(default_factory=list)

    def until(self, text: str, timeout_s: float = 300.0) -> float:
        """Reads its output up to a line that holds `text`; the seconds since its start.

        Raises:
            RuntimeError: it ended, or was killed because it took too long.
        """
        assert self.process.stdout is not None
        alarm = threading.Timer(timeout_s, self.process.terminate)
        alarm.start()
        try:
            for line in self.process.stdout:
                at = time.perf_counter() - self.began
                self.lines.append((at, line.rstrip()))
                if text in line:
                    return at
        finally:
            alarm.cancel()
        raise RuntimeError("no cluster: " + " / ".join(line for _, line in self.lines[-5:]))

    def stop(self) -> float:
        """Ctrl-C; the seconds until it has ended."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=END_TIMEOUT_S)
        return time.perf_counter() - began


@contextmanager
def cluster(arguments: Sequence[str], state: Path, port: int) -> Generator[Cluster]:
    """A running cluster, ended with the block."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SHARDYARD_")}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "up", "--foreground", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environ
        | {
            "SHARDYARD_STATE": str(state),
            "SHARDYARD_PORT": str(port),
            "PYTHONUNBUFFERED": "1",
        },
    )
    running = Cluster(process=process, port=port, state=state, began=began)
    try:
        yield running
    finally:
        if process.poll() is None:
            running.stop()
