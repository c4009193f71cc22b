"""Vendors' libraries, each in a child process of its own: one that hangs or crashes takes nothing with it.

Decides the life of those children. What a library is asked is written in `actors/libraries/<name>.py`, which may run in
another Python environment: `SHARDYARD_PYTHON_<NAME>` names its interpreter. It must not know what answers mean.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .tools import OUTPUT_CAP_BYTES, Completed

PYTHON_ENV = "SHARDYARD_PYTHON_"
END_DEADLINE_S = 1.0
_HERE = Path(__file__).parent
_CHILD = _HERE / "library_child.py"
_SCRIPTS = _HERE / "libraries"


@dataclass(slots=True)
class Libraries:
    """The libraries of this machine. Children end with `close`, or when this process does."""

    _kept: dict[str, _Child] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    def ask(self, library: str, question: str, timeout_s: float) -> Completed | None:
        """See `Host.ask`. Questions to one library wait for each other, within the deadline."""
        deadline = time.monotonic() + timeout_s
        lock = self._locks.setdefault(library, threading.Lock())
        if not lock.acquire(timeout=timeout_s):
            return Completed(
                rc=124, out="", err="it still answers another question", ended="timeout"
            )
        try:
            return self._ask(library, question, deadline)
        finally:
            lock.release()

    def close(self) -> None:
        """Ends every child."""
        for library in list(self._kept):
            self._kept.pop(library).end()

    def _ask(self, library: str, question: str, deadline: float) -> Completed | None:
        try:
            child = self._kept.pop(library, None) or _started(library)
        except OSError as error:
            return Completed(rc=126, out="", err=str(error))
        if child is None:
            return None
        answer = child.ask(question, deadline)
        if answer.get("keep") and child.alive():
            self._kept[library] = child
        else:
            child.end()
        if "missing" in answer:
            return None
        return _completed(answer)


class _Child:
    """One process that answers questions by line; see `library_child`."""

    def __init__(self, python: str, script: Path) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - an interpreter that the operator names, and our own script
            [python, "-P", str(_CHILD), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, question: str, deadline: float) -> dict[str, Any]:
        """The answer, or what became of the child instead."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return {"err": f"ended with status {self._process.wait(END_DEADLINE_S)}"}
        return self._line(deadline)

    def alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kills it; it holds nothing that must be saved."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_DEADLINE_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _line(self, deadline: float) -> dict[str, Any]:
        stream = self._process.stdout
        assert stream is not None
        text = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not text.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return {"rc": 124, "ended": "timeout"}
                data = os.read(stream.fileno(), 65536)
                text += data
                if not data:
                    return {"err": f"ended with status {self._status()}"}
                if len(text) > OUTPUT_CAP_BYTES:
                    return {"rc": 1, "ended": "output_cap"}
        try:
            answer = json.loads(text)
        except ValueError:
            return {"err": "its answer is not JSON"}
        return answer if isinstance(answer, dict) else {"err": "its answer is not an object"}

    def _status(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_DEADLINE_S)
        return None


def _completed(answer: dict[str, Any]) -> Completed:
    """A child's words; what they do not say, or say in an odd way, is a failure."""
    rc, ended = answer.get("rc"), answer.get("ended")
    return Completed(
        rc=rc if type(rc) is int else 1,
        out=str(answer.get("out", "")),
        err=str(answer.get("err", "")),
        ended=ended if ended in ("timeout", "output_cap") else "exit",
    )


def _started(library: str) -> _Child | None:
    script = _SCRIPTS / f"{library}.py"
    other = os.environ.get(PYTHON_ENV + library.upper().replace("-", "_"))
    if not script.is_file() or (other is None and not _installed(script)):
        return None
    return _Child(other or sys.executable, script)


def _installed(script: Path) -> bool:
    """Whether the module is in our own environment: cheaper than to start a child that finds it is not.

    The first line of a script that assigns `MODULE` names it.
    """
    for line in script.read_text(encoding="utf-8").splitlines():
        if line.startswith("MODULE = "):
            module = line.partition("=")[2].strip().strip("\"'")
            with contextlib.suppress(ImportError, ValueError):
                return importlib.util.find_spec(module) is not None
    return False
