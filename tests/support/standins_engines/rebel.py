"""A stand-in for Rebellions' compiler that lets optimum-rbln's own code run its course: graphs are empty files, nothing runs.

Its devices are those that `RBLN_STAND_IN` names (`RBLN-CA25:4`).
"""

import os
import sys
import types
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
    """Runs no graph. With `RBLN_STAND_IN_VOCAB` set it says of each row an id that depends on its last one and its position."""

    def __init__(self, *_: Any, **__: Any) -> None:
        if not os.environ.get("RBLN_STAND_IN_VOCAB"):
            raise RuntimeError("a stand-in for rebel has no device to run on")
        self.vocab = int(os.environ["RBLN_STAND_IN_VOCAB"])

    def __call__(self, ids: Any, positions: Any, *rest: Any, out: Any = None) -> Any:
        # Of a piece of a prompt, the place of its last token.
        last = int(rest[-1]) if ids.shape[-1] > 1 else 0
        logits = torch.zeros(ids.shape[0], 1, self.vocab)
        for row in range(ids.shape[0]):
            seen = int(ids[row, last]), int(positions[row, last])
            logits[row, 0, 3 + (seen[0] * 7 + seen[1] * 13) % (self.vocab - 4)] = 10.0
        if out:
            out[0].copy_(logits)
        return logits


AsyncRuntime = Runtime


class CompileContext:
    """Remembers nothing."""

    def __init__(self, **_: Any) -> None:
        return

    def mark_static_address(self, *_: Any) -> None:
        return


# In the real package a module of its own; a folder here would be one under tests, where there are none.
_context = types.ModuleType("rebel.compile_context")
_context.CompileContext = CompileContext  # type: ignore[attr-defined]
sys.modules[_context.__name__] = _context


def manual_seed(_: int) -> None:
    return None


profiler = None
