"""Real clusters for tests: started, asked and ended through the command line, and searched for afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.client import Client
from orchestrator.families import processes_of_run
from orchestrator.state_dir import RunRecord, StateDir
from orchestrator.tcp_ports import port_taken

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LAB = ROOT / "examples/mixed-lab/lab.yaml"
LAB_SPEC = ROOT / "examples/mixed-lab/app.yaml"
QUICKSTART = ROOT / "examples/quickstart/app.yaml"
LOOPBACK = "127.0.0.1"
UP_S = 200.0
POLL_S = 0.05

T = TypeVar("T")


def until(probe: Callable[[], T], timeout_s: float, what: str) -> T:
    """What `probe` answers as soon as that is true; fails with `what` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(POLL_S)
    return found


class Shardyard:
    """The command line of one user, with a state folder of his own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHARDYARD_", "RAY_"))}
        path = f"{BIN}{os.pathsep}{kept['PATH']}"
        self.env = kept | {"SHARDYARD_STATE": str(state), "PATH": path}

    def run(
        self,
        *args: object,
        code: int = 0,
        timeout_s: float = 120.0,
        cwd: Path = ROOT,
        env: dict[str, str] | None = None,
    ) -> str:
        """Output and errors of a command that must end with `code`."""
        ended, said = self.attempt(*args, timeout_s=timeout_s, cwd=cwd, env=env or {})
        assert ended == code, f"{args} ended with {ended}:\n{said}{self.logs()}"
        return said

    def attempt(
        self,
        *args: object,
        timeout_s: float = 60.0,
        cwd: Path = ROOT,
        env: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """Exit code, output and errors of a command."""
        words = [str(BIN / "shardyard"), *map(str, args)]
        done = self.execute(words, timeout_s=timeout_s, cwd=cwd, env=env or {})
        return done.returncode, done.stdout + done.stderr

    def json(self, *args: object) -> Any:
        """The document that a command prints with `-o json`."""
        return json.loads(self.run(*args, "-o", "json"))

    def control(self) -> Client:
        """A client of the controller, for tests that ask often."""
        return Client.of(self.state / "control.json", timeout_s=20.0)

    def ray(self, *args: object, timeout_s: float = 60.0, code: int = 0) -> str:
        """Ray's own command, with the variables that `shardyard status` names."""
        tools = self.json("status")["ray_tools"].split()
        env = dict(word.split("=", 1) for word in tools if word.startswith("RAY_"))
        words = [str(BIN / "ray"), *map(str, args)]
        done = self.execute(words, timeout_s=timeout_s, cwd=ROOT, env=env)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def execute(
        self, words: list[str], *, timeout_s: float, cwd: Path, env: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Any program in this user's environment."""
        return subprocess.run(
            words,
            env=self.env | env,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def record(self) -> RunRecord:
        """What runs, as recorded."""
        run = StateDir(self.state).read_run()
        assert run is not None, "nothing is recorded as running"
        return run

    def logs(self) -> str:
        """The end of every log, for the message of a test that failed."""
        files = sorted([*self.state.glob("logs/*.log"), *self._own_logs()])
        return "".join(f"\n--- {f}\n{f.read_text(errors='replace')[-1500:]}" for f in files)

    def _own_logs(self) -> list[Path]:
        try:
            folders = json.loads((self.state / "run.json").read_text())["temp_dirs"]
        except (OSError, ValueError):
            return []
        return [f for folder in folders for f in Path(folder).glob("shardyard-logs/*.log")]

    def replicas(self) -> dict[str, dict[str, Any]]:
        """Rows of `ps` by slot."""
        with self.control() as client:
            return {row["slot"]: row for row in client.replicas()}

    def pids(self, words: str) -> set[int]:
        """Processes of the run whose command line has these words in it."""
        rows = processes_of_run(self.record().run_id)
        return {row.pid for row in rows if words in command_line(row.pid)}


def command_line(pid: int) -> str:
    """Of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def left_over(run: RunRecord, port: int) -> list[str]:
    """What is still there of a run that was ended: processes, folders, the port."""
    processes = [f"{p.pid} {command_line(p.pid)}" for p in processes_of_run(run.run_id)]
    folders = [folder for folder in run.temp_dirs if Path(folder).exists()]
    return processes + folders + ([f"port {port}"] if port_taken(LOOPBACK, port) else [])


def listeners(port: int) -> int:
    """How many sockets listen on a port of this machine."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    cells = [row.split() for row in rows]
    return sum(c[3] == "0A" and int(c[1].rpartition(":")[2], 16) == port for c in cells)


class Foreground:
    """`shardyard up --foreground ...` as a child, its output in a file."""

    def __init__(self, yard: Shardyard, *args: object) -> None:
        yard.state.mkdir(parents=True, exist_ok=True)
        self.yard = yard
        self._output = yard.state / "foreground.out"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [str(BIN / "shardyard"), "up", "--foreground", *map(str, args)],
                env=yard.env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self._output.read_text(errors="replace")

    def wait_for(self, words: str, timeout_s: float = UP_S) -> None:
        """Returns once it has said these words."""

        def said() -> bool:
            ended = self.process.poll()
            assert ended is None or words in self.output, self.output + self.yard.logs()
            return words in self.output

        until(said, timeout_s, words)

    def end(self, number: signal.Signals = signal.SIGINT, timeout_s: float = 40.0) -> int:
        """Signals it and waits; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextmanager
def foreground(yard: Shardyard, *args: object) -> Iterator[Foreground]:
    """A run in the foreground that is ready; ended when the test has not done so."""
    run = Foreground(yard, *args)
    try:
        run.wait_for("ready at")
        yield run
    finally:
        try:
            run.end()
        except subprocess.TimeoutExpired:
            run.end(signal.SIGKILL)
            yard.run("down")
