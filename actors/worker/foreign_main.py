"""Runs one of our modules with another environment's Python: `python -P environment_main.py MODULE ARGUMENTS`.

That environment has its own packages and must not see ours, so no folder is put on its path: our packages alone are made known to it,
as they lie here. Run by path; imports nothing of ours. Decides nothing else.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("actors", "placement")


def command(interpreter: str, module: str, *arguments: str) -> list[str]:
    """The words that run a module of ours there. `-P`: nothing in the working directory stands in for it."""
    return [interpreter, "-P", __file__, module, *arguments]


def main(arguments: list[str]) -> None:
    """Entry point."""
    for name in _PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(_ROOT / name)]
        sys.modules[name] = package
    # The module sees its own name and arguments, as if it had been started with `-m`.
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
