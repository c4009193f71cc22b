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
from actors.server import ServerEngine
from actors.server_spec import Dialect, Ending, When

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


def folders() -> list[str]:
    """Private folders of engines that this process owns."""
    return [p.name for p in Path(tempfile.gettempdir()).glob(f"shardyard-{os.getpid()}-*")]


async def until(condition: Callable[[], object], deadline_s: float = 5.0) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)
