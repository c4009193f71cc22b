"""What the end of a vendor's server means: a reason, a hint and the line that says it.

Decides how a status is worded and which line is quoted. It must not know how the server was started.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from .spec import Ending

_QUOTED = 300
_COMMON = (
    Ending(
        status=127,
        says="could not be started",
        reason="its program could not be started",
        hint="shardyard doctor",
    ),
    Ending(
        status=-signal.SIGKILL,
        reason="it was killed, most likely for want of memory",
        hint="look at the node's kernel log; a smaller window or fewer sequences need less memory",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a server's process ended.

    Attributes:
        status: exit status, or minus the signal; None = nobody saw it.
        lines: what its processes printed last, secrets hidden.
        left: processes that outlived even SIGKILL.
    """

    status: int | None = None
    lines: tuple[str, ...] = ()
    left: tuple[int, ...] = ()


def meaning(ended: Ended, endings: Sequence[Ending]) -> tuple[str, str]:
    """What happened, as a sentence's end, and what mends it."""
    for ending in (*endings, *_COMMON):
        line = _fitting(ended, ending)
        if line is not None:
            return _sentence(ending.reason, ended, line), ending.hint
    return _sentence("it ended", ended, _last(ended.lines)), "its log tells more"


def last_line(lines: Sequence[str]) -> str:
    """The last line, as the end of a sentence."""
    line = _last(lines)
    return f"; it printed last: {line[:_QUOTED]}" if line else ""


def _fitting(ended: Ended, ending: Ending) -> str | None:
    """The line to quote when the row fits."""
    if ending.status is not None and ending.status != ended.status:
        return None
    if not ending.says:
        return _last(ended.lines)
    says = re.compile(ending.says)
    return next((line for line in reversed(ended.lines) if says.search(line)), None)


def _last(lines: Sequence[str]) -> str:
    return next((line for line in reversed(lines) if line.strip()), "")


def _sentence(reason: str, ended: Ended, line: str) -> str:
    return f"{reason} ({_how(ended.status)}){f': {line.strip()[:_QUOTED]}' if line else ''}"


def _how(status: int | None) -> str:
    if status is None:
        return "its status is not known"
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
