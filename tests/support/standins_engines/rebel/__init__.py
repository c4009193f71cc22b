"""A stand-in for Rebellions' compiler that lets optimum-rbln's own code run its course: graphs are empty files, nothing runs.

Its devices are those that `RBLN_STAND_IN` names (`RBLN-CA25:4`).
"""

import os
from pathlib import Path
from typing import Any

import torch

__version__ = "0.12.0+standin"

# The real module brings this operator; optimum-rbln names it while it compiles.
torch.library.define("rbln_custom_ops::linear", "(Tensor x, Tensor w, Tensor? b=None) -> Tensor")

_product, _, _count = os.environ.get("RBLN_STAND_IN", "").partition(":")


def device_count() -> int:
    return int(_count) if _count.isdigit() else 0


def npu_is_available(device_id: int = 0) -> bool:
    return 0 <= device_id < device_count()


def get_npu_name(device_id: int = 0) -> str | None:
    return _product if npu_is_available(device_id) else None


class RBLNCompiledModel:
    """A graph: what it was compiled for, kept as text."""

    def __init__(self, path: str | Path) -> None:
        self.told = Path(path).read_text()

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.told)


def compile_from_torch(
    model: Any, input_info: Any, npu: str | None = None, **options: Any
) -> RBLNCompiledModel:
    compiled = object.__new__(RBLNCompiledModel)
    compiled.told = f"stand-in for {npu}, num_devices={options.get('num_devices')}: {input_info}"
    return compiled


def compile(*_: Any, num_devices: int | None = None, **__: Any) -> None:  # noqa: A001 - its name
    raise RuntimeError("a stand-in for rebel compiles nothing this way")


class Runtime:
    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("a stand-in for rebel has no device to run on")


AsyncRuntime = Runtime


def manual_seed(_: int) -> None:
    return None


profiler = None
