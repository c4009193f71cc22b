"""A stand-in for `openvino` and `openvino_genai` with devices that this machine has not: it records and counts, nothing else."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest


class StandInLibrary:
    """What the library was told, and a pipeline that counts up from the prompt's last id.

    Attributes:
        made: (kind of pipeline, device, properties) of every pipeline.
        gate: generation waits here before each id.
        wrong: message that generation fails with; empty = it does not.
        refuses: message that constructors fail with; empty = they do not.
    """

    def __init__(self, *devices: str) -> None:
        self.devices = list(devices)
        self.made: list[tuple[str, str, dict[str, Any]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.wrong = ""
        self.refuses = ""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Takes the places of the two modules."""
        core = SimpleNamespace(available_devices=self.devices)
        runtime = SimpleNamespace(Core=lambda: core, Tensor=lambda array: array)
        names = SimpleNamespace(RUNNING="RUNNING", CANCEL="CANCEL")
        library = SimpleNamespace(
            GenerationConfig=SimpleNamespace,
            SchedulerConfig=SimpleNamespace,
            StreamerBase=object,
            StreamingStatus=names,
            LLMPipeline=self._single,
            ContinuousBatchingPipeline=self._paged,
        )
        monkeypatch.setitem(sys.modules, "openvino", runtime)
        monkeypatch.setitem(sys.modules, "openvino_genai", library)

    def _single(self, _path: str, device: str, **told: Any) -> Any:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.made.append(("single", device, told))
        return SimpleNamespace(generate=self._generate)

    def _paged(self, _path: str, _scheduler: Any, device: str, told: dict[str, Any]) -> Any:
        self.made.append(("paged", device, told))
        return SimpleNamespace(has_non_finished_requests=lambda: False)

    def _generate(self, prompt: Any, asked: Any, streamer: Any) -> Any:
        last = int(prompt[0][-1])
        reason = "LENGTH"
        for n in range(asked.max_new_tokens):
            if not self.gate.wait(10):
                raise RuntimeError("nobody opened the gate")
            if self.wrong:
                raise RuntimeError(self.wrong)
            token = last + 1 + n
            state = streamer.write([token])
            if state == "CANCEL":
                reason = "NONE"
                break
            if not asked.ignore_eos and token in asked.stop_token_ids:
                reason = "STOP"
                break
        streamer.end()
        return SimpleNamespace(finish_reasons=[SimpleNamespace(name=reason)])
