"""The devices of a node with their health, from one look to the next; one that is gone stays, as lost.

Decides what each look says of a device's health. It must not know how devices were found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from placement.devices import Device, Health
from placement.ids import DeviceId

from .assembly import Assembly
from .health import Condition, Sight, observed
from .report import DeviceFacts, Reading


class KeptDevices:
    """See the module; `devices` and `facts` are as of the last `see`."""

    def __init__(self) -> None:
        self.devices: tuple[Device, ...] = ()
        self.facts: tuple[DeviceFacts, ...] = ()
        self._conditions: dict[DeviceId, Condition] = {}
        self._devices: dict[DeviceId, Device] = {}
        self._facts: dict[DeviceId, DeviceFacts] = {}
        self._owner: dict[DeviceId, str] = {}

    def unsettled(self) -> bool:
        """Whether a device is out of sight and not given up yet."""
        return any(
            c.out_of_sight is not None and c.health is not Health.LOST
            for c in self._conditions.values()
        )

    def see(
        self,
        made: Assembly,
        readings: Mapping[str, Reading],
        silent: Mapping[str, str],
        now: float,
    ) -> None:
        """Takes over a look and what the devices do.

        Args:
            readings: by identity.
            silent: probes that could not look, and why.
            now: monotonic seconds.
        """
        seen = {d.id: d for d in made.devices}
        self._devices = {**self._devices, **seen}
        self._facts = {**self._facts, **made.facts}
        self._owner = {**self._owner, **made.owner}
        for name, device in self._devices.items():
            sight = self._sight(device, seen, made, readings, silent)
            self._conditions[name] = observed(self._conditions.get(name), sight, now)
        order = [*seen, *(name for name in self._devices if name not in seen)]
        self.devices = tuple(map(self._shown, order))
        self.facts = tuple(self._fact(name) for name in order if name in self._facts)

    def _sight(
        self,
        device: Device,
        seen: Mapping[DeviceId, Device],
        made: Assembly,
        readings: Mapping[str, Reading],
        silent: Mapping[str, str],
    ) -> Sight:
        why = silent.get(self._owner[device.id])
        if why is not None:
            return Sight(silent=True, evidence=(f"its probe does not answer: {why}",))
        if device.id not in seen:
            return Sight()
        facts = self._facts.get(device.id)
        one = made.accelerators.get(device.id)
        return Sight(
            health=device.health,
            evidence=one.evidence if one is not None else (),
            reading=readings.get(device.identity) if device.identity else None,
            temperature_limit_c=facts.temperature_limit_c if facts is not None else None,
        )

    def _shown(self, name: DeviceId) -> Device:
        condition = self._conditions[name]
        return dataclasses.replace(
            self._devices[name], health=condition.health, speed=condition.speed
        )

    def _fact(self, name: DeviceId) -> DeviceFacts:
        condition = self._conditions[name]
        return dataclasses.replace(
            self._facts[name], evidence=condition.evidence, resets=condition.resets
        )
