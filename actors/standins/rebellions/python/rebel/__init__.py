"""Stands in for Rebellions' runtime: counts devices from `RBLN_STAND_IN` (`RBLN-CA25:4`), and runs nothing."""

import os
from typing import Any, Never

__version__ = "0.12.0+standin"

_product, _, _count = os.environ.get("RBLN_STAND_IN", "").partition(":")


def device_count() -> int:
    """How many devices there are."""
    return int(_count) if _count.isdigit() else 0


def npu_is_available(device_id: int = 0) -> bool:
    """Whether there is such a device."""
    return 0 <= device_id < device_count()


def get_npu_name(device_id: int = 0) -> str | None:
    """The product's name, or None."""
    return _product if npu_is_available(device_id) else None


def _refused(*args: Any, **kwargs: Any) -> Never:
    raise RuntimeError("a stand-in for rebel has no hardware to compile for or run on")


class RBLNCompiledModel:
    """Cannot be made."""

    __init__ = _refused


class Runtime(RBLNCompiledModel):
    """Cannot be made."""


class AsyncRuntime(RBLNCompiledModel):
    """Cannot be made."""


compile = compile_from_torch = manual_seed = profiler = _refused  # noqa: A001 - its name in the real package
