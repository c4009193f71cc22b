"""Runs a vendor's tool: no shell, a deadline, a cap on what it prints, and nothing of it left afterwards."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

OUTPUT_CAP_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A tool's answer.

    Attributes:
        rc: exit status; negative = the signal that ended it.
        ended: `timeout` and `output_cap` mean that we ended it; `out` is then what came before.
    """

    rc: int
    out: str
    err: str
    ended: Literal["exit", "timeout", "output_cap"] = "exit"


def run_tool(argv: Sequence[str], timeout_s: float) -> Completed:
    """Runs an absolute path. The tool gets a process group of its own, which ends with the deadline."""
    plain = {**os.environ, "LC_ALL": "C", "TERM": "dumb", "NO_COLOR": "1"}
    try:
        process = subprocess.Popen(  # noqa: S603 - an absolute path from fixed folders, no shell
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=plain,
            cwd="/",
            process_group=0,
        )
    except OSError as error:
        return Completed(rc=126, out="", err=str(error))
    with process:
        return _collect(process, timeout_s)


def _collect(process: subprocess.Popen[bytes], timeout_s: float) -> Completed:
    """Both streams until the tool exits, the deadline, or the cap; then nothing of its group is left."""
    assert process.stdout is not None
    assert process.stderr is not None
    texts = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    try:
        ended = _drain(process.pid, texts, time.monotonic() + timeout_s)
    finally:
        _kill_group(process.pid)
    out, err = (bytes(text).decode(errors="replace") for text in texts.values())
    return Completed(rc=process.wait(), out=out, err=err, ended=ended)


def _drain(
    pid: int, texts: dict[int, bytearray], deadline: float
) -> Literal["exit", "timeout", "output_cap"]:
    # Without pidfds (macOS) the end of the streams is the end of the tool.
    exited = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    try:
        with selectors.DefaultSelector() as selector:
            for fd in texts if exited is None else (*texts, exited):
                selector.register(fd, selectors.EVENT_READ)
            return _until_closed(selector, pid, exited, texts, deadline)
    finally:
        if exited is not None:
            os.close(exited)


def _until_closed(
    selector: selectors.BaseSelector,
    pid: int,
    exited: int | None,
    texts: dict[int, bytearray],
    deadline: float,
) -> Literal["exit", "timeout", "output_cap"]:
    while selector.get_map():
        ready = selector.select(max(0.0, deadline - time.monotonic()))
        if not ready:
            return "timeout"
        for key, _ in ready:
            if key.fd == exited:
                _kill_group(pid)  # what the tool left behind would hold its streams open
            elif data := os.read(key.fd, 65536):
                texts[key.fd] += data
                continue
            selector.unregister(key.fd)
        if sum(map(len, texts.values())) > OUTPUT_CAP_BYTES:
            return "output_cap"
    return "exit"


def _kill_group(pid: int) -> None:
    """Ends a tool with its children. It has not been waited for yet, so its number cannot be another's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
