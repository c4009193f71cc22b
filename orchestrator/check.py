"""What one check of `doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. `hint` is the next command to type, empty where all is well."""

    check: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    hint: str = ""
