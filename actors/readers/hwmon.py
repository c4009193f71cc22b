"""A device's hardware monitor as sysfs tells it: temperatures, power, energy and clocks in SI units.

Decides which of a chip's sensors speaks for the device. It must not know whose chip it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..host import Host
from ..quantities import power_w, temperature_c, text_of, whole

MOST_COUNT = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Which sensors speak for a device. Made once in a look, so that a poll reads only values.

    Attributes:
        folder: `.../hwmon/hwmonN`; empty = the device has none.
        temperature: the sensor, e.g. `temp2`; empty = none.
        power: file that holds the power now in microwatts; empty = none.
        energy: file of the counter of microjoules that power can be told from; empty = none.
    """

    folder: str = ""
    temperature: str = ""
    power: str = ""
    energy: str = ""

    def temperature_c(self, host: Host) -> float | None:
        """Temperature now."""
        return milli_c(self._value(host, self.temperature, "_input"))

    def limit_c(self, host: Host) -> float | None:
        """Where the same sensor says that the device stops (`crit`) or else is at its limit (`max`)."""
        told = (milli_c(self._value(host, self.temperature, end)) for end in ("_crit", "_max"))
        return next((value for value in told if value is not None and value > 0.0), None)

    def power_w(self, host: Host) -> float | None:
        """Power now."""
        return micro_w(self._value(host, self.power))

    def power_limit_w(self, host: Host) -> float | None:
        """The limit that holds now; one of 0 is none."""
        sensor = (self.power or self.energy).partition("_")[0].replace("energy", "power")
        told = (micro_w(self._value(host, sensor, end)) for end in ("_cap", "_max", "_rated_max"))
        return next((value for value in told if value), None)

    def energy_uj(self, host: Host) -> int | None:
        """Microjoules used so far."""
        return whole((self._value(host, self.energy) or "").strip(), most=MOST_COUNT)

    def _value(self, host: Host, sensor: str, end: str = "") -> str | None:
        return host.read(f"{self.folder}/{sensor}{end}") if self.folder and sensor else None


def monitor(host: Host, device: str, labels: Sequence[str] = ()) -> Monitor:
    """The monitor of a device's folder in sysfs; an empty one when it has none.

    Args:
        device: e.g. `/sys/bus/pci/devices/0000:03:00.0`.
        labels: what the sensors that speak for the whole device are called, best first; without one of them the first.
    """
    chips = [name for name in host.list(f"{device}/hwmon") if name.startswith("hwmon")]
    if not chips:
        return Monitor()
    folder = f"{device}/hwmon/{chips[0]}"
    names = host.list(folder)
    power = _chosen(host, folder, names, "power", "average", labels) or _chosen(
        host, folder, names, "power", "input", labels
    )
    return Monitor(
        folder=folder,
        temperature=_chosen(host, folder, names, "temp", "input", labels).removesuffix("_input"),
        power=power,
        energy=_chosen(host, folder, names, "energy", "input", labels),
    )


def micro_w(text: str | None) -> float | None:
    r"""Watts of a file that holds microwatts.

    >>> micro_w("17000000\n"), micro_w("-1"), micro_w("")
    (17.0, None, None)
    """
    value = whole((text or "").strip(), most=2**40)
    return None if value is None else power_w(value / 1e6)


def milli_c(text: str | None) -> float | None:
    r"""Degrees of a file that holds thousandths of them.

    >>> milli_c("34000\n"), milli_c("-5000"), milli_c("65535000"), milli_c("hot")
    (34.0, -5.0, None, None)
    """
    cleaned = (text or "").strip()
    value = whole(cleaned.removeprefix("-"))
    sign = -1.0 if cleaned.startswith("-") else 1.0
    return None if value is None else temperature_c(sign * value / 1e3)


@dataclass(slots=True)
class Rates:
    """Counters of the last call, for rates; empty in the beginning, when every rate is unknown."""

    _last: dict[str, tuple[float, int]] = field(default_factory=dict)

    def per_s(self, name: str, count: int | None, now: float) -> float | None:
        """How fast a counter has grown since it was last given.

        None the first time, when no time has passed, and when the counter went back (the device was reset).

        >>> rates = Rates()
        >>> rates.per_s("a", 100, 1.0), rates.per_s("a", 150, 2.0), rates.per_s("a", 10, 3.0), rates.per_s("a", 20, 3.0)
        (None, 50.0, None, None)
        """
        before = self._last.get(name)
        if count is None:
            self._last.pop(name, None)
            return None
        self._last[name] = (now, count)
        if before is None or now <= before[0] or count < before[1]:
            return None
        return (count - before[1]) / (now - before[0])

    def keep(self, names: Iterable[str]) -> None:
        """Forgets all other counters: their devices are gone."""
        kept = set(names)
        self._last = {name: value for name, value in self._last.items() if name in kept}


def _chosen(
    host: Host, folder: str, names: Sequence[str], kind: str, suffix: str, labels: Sequence[str]
) -> str:
    """The file of the sensor with the best label, else of the first; empty when there is none of the kind."""
    numbers = [
        found[1] for n in names if (found := re.fullmatch(rf"{kind}(\d{{1,3}})_{suffix}", n))
    ]
    if not numbers:
        return ""
    ordered = sorted(numbers, key=int)
    called = {text_of(host.read(f"{folder}/{kind}{n}_label")): n for n in reversed(ordered)}
    best = next((called[label] for label in labels if label in called), ordered[0])
    return f"{kind}{best}_{suffix}"
