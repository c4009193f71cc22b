"""OpenVINO GenAI on processors, Intel's GPUs and Intel's NPUs, inside a worker process.

Decides which of the library's two pipelines runs a planned shard: continuous batching, or one sequence after another on an
NPU, which knows static shapes only. Of the devices only processors were seen by us. It must not know requests or text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from ..engine import Capabilities, EngineConfig, EngineStats, Sampling
from ..openvino.device import device_of
from ..openvino.paged import PagedStepper
from ..openvino.request import check_model
from ..openvino.single import SingleStepper
from ..worker.stepper import Row, Stepper


class OpenVinoStepper:
    """See `Stepper`."""

    name: ClassVar[str] = "openvino"
    requires: ClassVar[tuple[str, ...]] = ("openvino_genai",)
    environment: ClassVar[str] = ""

    def __init__(self) -> None:
        self._driven: Stepper = PagedStepper()

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Stepper`."""
        check_model(config)
        import openvino

        device = device_of(config, openvino.Core().available_devices)
        self._driven = SingleStepper(device) if device.startswith("NPU") else PagedStepper(device)
        self._driven.load(config, progress)

    def capabilities(self) -> Capabilities:
        """See `Stepper`."""
        return self._driven.capabilities()

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        """See `Stepper`."""
        self._driven.add(sequence, prompt_ids, sampling)

    def abort(self, sequence: int) -> None:
        """See `Stepper`."""
        self._driven.abort(sequence)

    def busy(self) -> bool:
        """See `Stepper`."""
        return self._driven.busy()

    def step(self) -> list[Row]:
        """See `Stepper`."""
        return self._driven.step()

    def stats(self) -> EngineStats:
        """See `Stepper`."""
        return self._driven.stats()
