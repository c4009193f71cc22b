"""A process that asks one vendor's library: questions come by line, answers go by line, as JSON.

Run by path, in whatever Python environment the vendor's package lives in: it imports nothing of ours. Its argument is a
script with `MODULE`, what must be installed; `KEEP`, whether to stay for the next question; `answer(question)`, whose
result can be written as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import sys
from typing import Any


def main() -> None:
    """Answers until standard input ends."""
    # Vendors' libraries print when they like: our answers get a stream of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    script: dict[str, Any] | None = None
    for line in sys.stdin:
        try:
            script = script or runpy.run_path(sys.argv[1])
            said = _answer(script, json.loads(line))
        except BaseException as error:  # noqa: BLE001 - whatever a vendor's library raises
            said = {"rc": 1, "err": f"{type(error).__name__}: {error}"[:2000]}
        said["keep"] = bool(script and script["KEEP"] and said["rc"] == 0)
        answers.write(json.dumps(said) + "\n")
        answers.flush()
        if not said["keep"]:
            return


def _answer(script: dict[str, Any], question: str) -> dict[str, Any]:
    if importlib.util.find_spec(script["MODULE"]) is None:
        return {"rc": 127, "missing": script["MODULE"]}
    return {"rc": 0, "out": json.dumps(script["answer"](question))}


if __name__ == "__main__":
    main()
