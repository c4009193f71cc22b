"""The stand-in vendor server as an engine of ours, and what a test looks at around it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from actors.engine import Capabilities, EngineConfig
from actors.openai.dialect import Dialect
from actors.server.engine import ServerEngine
from actors.server.spec import Ending, When

SCRIPT = Path(__file__).with_name("openai_server.py")


class StandIn:
    """See `Server`. Faults are those of `openai_server.py`."""

    name: ClassVar[str] = "stand-in"
    environment: ClassVar[str] = "stand-in"
    argv: tuple[str | When, ...] = (
        "{python}", "-S", str(SCRIPT), "--served", "{served}", "--window", "{window}", "--sequences", "{sequences}",
        "--pace", "{pace}", "--after", "{after}", When("fault", "--fault", "{fault}"),
    )  # fmt: skip
    variables: Mapping[str, str] = {"VENDOR_API_TOKEN": "{key}", "EMPTY": "{nothing}"}
    dialect = Dialect(
        ids_switch={"return_token_ids": True}, ignore_eos=True, dead="EngineDeadError"
    )
    metrics: ClassVar[Mapping[str, str]] = {
        "running": "stand_in:running",
        "waiting": "stand_in:waiting",
        "kv_used_ratio": "stand_in:kv",
    }
    endings: tuple[Ending, ...] = (
        Ending(status=70, reason="a worker died", hint="look at the worker"),
        Ending(says="weights are torn", reason="the weights are torn", hint="fetch them again"),
    )

    def __init__(
        self, fault: str = "", *, pace: float = 0.0, after: int = 1, door: str = "socket"
    ) -> None:
        self._values = {"fault": fault, "pace": str(pace), "after": str(after), "nothing": ""}
        self.argv = (*self.argv, f"--{door}", f"{{{door}}}")

    def values(self, config: EngineConfig) -> Mapping[str, str]:
        return self._values

    def capabilities(self, config: EngineConfig) -> Capabilities:
        return Capabilities(window=config.window, exact=True, continuation="exact")


class ToldInText(StandIn):
    """The same server asked for text alone."""

    dialect = Dialect(ignore_eos=True)


def server_engine(fault: str = "", **options: Any) -> ServerEngine:
    """The stand-in as an engine that runs with this interpreter."""
    engine_options = {n: options.pop(n) for n in ("load_deadline_s", "grace_s") if n in options}
    server = options.pop("server", StandIn)(fault, **options)
    return ServerEngine(
        server,
        **{"load_deadline_s": 20.0, "grace_s": 0.5, **engine_options},
        find=lambda _: Path(sys.executable),
        recipe=lambda _: {},
    )


def alive(pids: tuple[int, ...] | list[int]) -> list[int]:
    """Those that run."""
    return [pid for pid in pids if _state(pid) not in ("", "Z", "X")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with."""
    rows = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(row.split("=", 1) for row in rows if row)


def directory_of(pid: int) -> Path:
    """Where a process runs."""
    return Path(f"/proc/{pid}/cwd").readlink()


def segment_of(pid: int) -> Path:
    """The shared memory that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return next(Path(line[line.index("/dev/shm") :]) for line in lines if "/dev/shm/psm_" in line)


def status_kib(pid: int | str, row: str) -> int:
    """A figure of `/proc/PID/status`, such as VmHWM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(row + ":"))


def entries(folder: str) -> int:
    """How many there are, e.g. of `/proc/self/fd`."""
    return sum(1 for _ in Path(folder).iterdir())


def folders(owner: int | None = None) -> set[str]:
    """Private folders of engines that a process owns, this one by default."""
    place = Path(tempfile.gettempdir())
    return {p.name for p in place.glob(f"shardyard-{owner or os.getpid()}-*")}


async def until(condition: Callable[[], object], deadline_s: float = 5.0) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - it lies outside of this process
            await asyncio.sleep(0.005)
