"""Where the processes of a node log to, one file per slot, gateway, agent and controller. JSON lines, events with keys.

Prompts, completions and keys never reach a log.
"""

from __future__ import annotations

import logging
import os
import tempfile
import traceback
from collections import deque
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

LOGS_ENV = "SHARDYARD_LOGS"
LARGEST_BYTES = 8 * 1024**2
KEPT = 2
MOST_LINES = 10_000


def log_path(name: str) -> Path:
    """The log file of a slot, gateway, agent or controller on this node.

    >>> log_path("smollm2/r0").name
    'smollm2_r0.log'
    """
    folder = os.environ.get(LOGS_ENV) or str(
        Path(tempfile.gettempdir()) / f"shardyard-logs-{os.getuid()}"
    )
    safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in name)
    return Path(folder) / f"{safe.lstrip('.')}.log"


def configure(path: Path, level: int = logging.INFO) -> None:
    """Sends structlog and standard logging of this process to one file that cannot grow without bound."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=LARGEST_BYTES, backupCount=KEPT)
    shared = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )


def where(error: BaseException, most: int = 8) -> list[str]:
    """The innermost places that an error came through, and nothing of what it says."""
    frames = traceback.extract_tb(error.__traceback__)[-most:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]


def tail(path: Path, lines: int) -> str:
    """The last lines of a log; empty when there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, maxlen=min(lines, MOST_LINES)))
    except FileNotFoundError:
        return ""
