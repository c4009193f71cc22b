"""Whether OpenVINO sees Intel's devices: hardware that no runtime sees cannot be worked with.

Decides what its silence means. It must not know what is on the machine, nor how fast it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..endings import said
from ..host import Host
from ..quantities import document, text_of

TIMEOUT_S = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """OpenVINO's answer.

    Attributes:
        names: device -> its full name, e.g. `NPU` -> `Intel(R) AI Boost`.
        wrong: why there is no answer; empty when there is one, or when OpenVINO is not installed.
        installed: whether anybody could answer.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    wrong: str = ""
    installed: bool = True

    def sees(self, word: str) -> bool | None:
        """Whether a device of a kind, `GPU` or `NPU`, is listed; None = it did not say."""
        if self.wrong or not self.installed:
            return None
        return any(name.partition(".")[0] == word for name in self.names)


def runtime(host: Host) -> Runtime:
    """Asks once. Costs half a second of a child process, so only a probe that has found hardware asks."""
    answer = host.ask("openvino", "devices", TIMEOUT_S)
    if answer is None:
        return Runtime(installed=False)
    text, wrong = said("OpenVINO", answer)
    told = document(text)
    rows = told.get("devices") if isinstance(told, dict) else None
    if wrong or not isinstance(rows, list):
        return Runtime(wrong=wrong or "OpenVINO's answer makes no sense")
    named = (row for row in rows if isinstance(row, dict))
    return Runtime(
        names={
            name: text_of(row.get("full_device_name")) or ""
            for row in named
            if (name := text_of(row.get("name")))
        }
    )
