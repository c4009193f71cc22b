"""OpenVINO's pipeline of one sequence after another on the processor, where an NPU would have it."""

from __future__ import annotations

from actors.openvino.single import SingleStepper


class SingleOnProcessor(SingleStepper):
    """The class that drives an NPU, with the library's same code path on a device that every machine has."""

    def __init__(self) -> None:
        super().__init__("CPU")
