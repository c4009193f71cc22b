"""Which exit code an outcome has. The only place that knows the numbers."""

from __future__ import annotations

from typing import Final

OK: Final = 0
BUG: Final = 1
USAGE: Final = 2
INFEASIBLE: Final = 3
UNREACHABLE: Final = 4
DEGRADED: Final = 5
INTERRUPTED: Final = 130

# The longest beginning of an error's code decides.
_BY_CODE: Final = {
    "spec": USAGE,
    "install": USAGE,
    "model": USAGE,
    "request": USAGE,
    "placement": BUG,
    "placement.stale": DEGRADED,
    "placement.infeasible": INFEASIBLE,
    "device": DEGRADED,
    "engine": DEGRADED,
    "control": USAGE,
    "control.unreachable": UNREACHABLE,
    "control.unauthorized": UNREACHABLE,
    "control.timeout": DEGRADED,
}


def exit_code(code: str) -> int:
    """The exit code of an error by its `code`, e.g. `spec.invalid`.

    >>> exit_code("control.timeout"), exit_code("control.port_taken"), exit_code("internal")
    (5, 2, 1)
    """
    known = [begin for begin in _BY_CODE if code == begin or code.startswith(f"{begin}.")]
    return _BY_CODE[max(known, key=len)] if known else BUG
