"""Sensors of a hardware monitor: which one speaks for a device, and what makes no sense."""

from __future__ import annotations

import pytest
from support.hosts import FakeHost

from actors.readers.hwmon import Monitor, Rates, micro_w, milli_c, monitor

CHIP = "/sys/x/hwmon/hwmon3"


def host(**files: str) -> FakeHost:
    return FakeHost({f"{CHIP}/{name}": text for name, text in files.items()})


def test_the_sensor_with_the_best_label_speaks():
    machine = host(
        temp1_input="40000\n",
        temp1_label="edge\n",
        temp2_input="60000\n",
        temp2_label="junction\n",
        temp2_crit="110000\n",
        temp3_input="90000\n",
        temp3_label="mem\n",
    )
    told = monitor(machine, "/sys/x", ("junction", "edge"))
    assert (told.temperature_c(machine), told.limit_c(machine)) == (60.0, 110.0)


def test_without_a_known_label_the_first_sensor_speaks():
    machine = host(temp10_input="70000\n", temp2_input="30000\n", temp2_max="95000\n")
    told = monitor(machine, "/sys/x", ("pkg",))
    assert (told.temperature_c(machine), told.limit_c(machine)) == (30.0, 95.0)


def test_power_is_the_average_where_both_are_told():
    machine = host(power1_average="17000000\n", power1_input="90000000\n", power1_cap="236000000\n")
    told = monitor(machine, "/sys/x")
    assert (told.power_w(machine), told.power_limit_w(machine)) == (17.0, 236.0)


def test_a_counter_of_energy_names_the_limit_of_the_same_channel():
    machine = host(
        energy1_input="5000000\n",
        energy1_label="card\n",
        energy2_input="123456789\n",
        energy2_label="pkg\n",
        power2_max="150000000\n",
        power1_max="190000000\n",
    )
    told = monitor(machine, "/sys/x", ("pkg",))
    assert (told.energy_uj(machine), told.power_limit_w(machine)) == (123456789, 150.0)


def test_a_device_without_a_monitor_tells_nothing():
    machine = FakeHost()
    told = monitor(machine, "/sys/x")
    assert told == Monitor()
    answers = (told.temperature_c, told.limit_c, told.power_w, told.power_limit_w, told.energy_uj)
    assert [ask(machine) for ask in answers] == [None] * 5


@pytest.mark.parametrize("text", [None, "", "-", "N/A", "99999999999999", "1e9"])
def test_nonsense_is_unknown(text):
    assert (milli_c(text), micro_w(text)) == (None, None)


def test_a_limit_of_zero_is_none():
    machine = host(power1_input="1000000\n", power1_cap="0\n")
    assert monitor(machine, "/sys/x").power_limit_w(machine) is None


def test_a_rate_needs_two_readings_and_time_between_them():
    rates = Rates()
    assert rates.per_s("a", 10, 1.0) is None
    assert rates.per_s("a", 20, 1.0) is None, "a recording stands still"
    assert rates.per_s("a", 50, 3.0) == 15.0
    assert rates.per_s("a", 5, 4.0) is None, "the device was reset"
    assert rates.per_s("a", None, 5.0) is None
    assert rates.per_s("a", 100, 6.0) is None, "what was not told in between is no base"


def test_counters_of_devices_that_left_are_forgotten():
    rates = Rates()
    rates.per_s("a", 10, 1.0)
    rates.keep(["b"])
    assert rates.per_s("a", 20, 2.0) is None
