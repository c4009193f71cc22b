"""What a process that makes a form tells: JSON lines `{"progress": 0.4, "stage": ...}`, at a failure `{"error": ..., "hint": ...}` as the last.

It must not know what is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ModelError

Tell = Callable[[float, str], None]


def run(convert: Callable[[Path, Path, str, Tell], None], arguments: list[str]) -> int:
    """Calls `convert(source, folder, dtype, tell)`; its exit status."""
    source, folder, dtype = arguments
    # Libraries print when they like: our lines get a stream of their own.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

    def say(**fields: Any) -> None:
        lines.write(json.dumps(fields) + "\n")
        lines.flush()

    try:
        convert(
            Path(source), Path(folder), dtype, lambda done, stage: say(progress=done, stage=stage)
        )
    except (ModelError, ImportError, OSError, MemoryError) as error:
        what = str(error) or type(error).__name__
        say(error=what, hint=getattr(error, "hint", ""))
        return 1
    say(progress=1.0, done=folder)
    return 0
