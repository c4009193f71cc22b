"""What processors do now, from counters that move between two readings."""

from __future__ import annotations

import pytest
from support.hosts import FakeHost, in_memory, recorded

from actors.probe import Found, LiveProbe
from actors.probes.cpu import CpuProbe
from actors.report import Reading
from placement.ids import NodeId
from placement.units import GIB, KIB

NODE = NodeId("n")
SERVER = in_memory("cpu", "synthetic-dual-socket-smt")
ENERGY = "/sys/class/powercap/intel-rapl:{}/energy_uj"
THROTTLE = "/sys/devices/system/cpu/cpu{}/thermal_throttle/package_throttle_count"
STAT = "cpu0 {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu16 0 0 0 9999 0 0 0 0 0 0\n"
BOX = "synthetic-container-2-of-64"


def polled(*machines: FakeHost, seconds: float = 2.0) -> list[Reading]:
    """The last of the readings of one probe that sees the machine in these states, one after the other."""
    probe = CpuProbe()
    found = probe.probe(machines[0], NODE)
    assert isinstance(found, Found)
    readings = {}
    for k, machine in enumerate(machines):
        readings = probe.poll(machine.but({}, clock=[10.0 + k * seconds]), found)
    assert set(readings) == {d.identity for d in found.devices}
    return [readings[d.identity] for d in found.devices]


def test_it_is_a_live_probe():
    assert isinstance(CpuProbe(), LiveProbe)


def test_rates_are_unknown_at_first_and_while_the_clock_stands():
    for readings in (polled(SERVER), polled(SERVER, SERVER, seconds=0.0)):
        assert {r.utilisation for r in readings} == {None}
        assert {r.power_w for r in readings} == {None}


def test_a_recording_stands_still():
    host = recorded("cpu", "synthetic-dual-socket-smt")
    probe = CpuProbe()
    found = probe.probe(host, NODE)
    assert isinstance(found, Found)
    assert probe.poll(host, found) == probe.poll(host, found)


def test_busy_time_is_counted_per_domain():
    before = SERVER.but({"/proc/stat": STAT.format(busy=100, idle=100)})
    after = SERVER.but({"/proc/stat": STAT.format(busy=175, idle=125)})
    first, second = polled(before, after)
    assert first.utilisation == pytest.approx(0.75)
    assert second.utilisation is None, "its counters did not move"


@pytest.mark.parametrize(
    "text", [None, "", "cpu0 x y\n", "cpu0 1 2\n", "cpu0 5 0 0 5 0 0 0 0 0 0\n"]
)
def test_counters_that_vanish_or_run_back_are_unknown(text):
    before = SERVER.but({"/proc/stat": STAT.format(busy=100, idle=100)})
    first, _ = polled(before, SERVER.but({"/proc/stat": text}))
    assert first.utilisation is None


def test_power_is_the_energy_of_each_package_over_the_time():
    after = SERVER.but({ENERGY.format(0): "100000600000", ENERGY.format(1): "150000300000"})
    first, second = polled(SERVER, after)
    assert second.power_w == pytest.approx(0.15)
    assert first.power_w == pytest.approx((100000600000 - 100000000000) * 1e-6 / 2)


def test_a_counter_that_starts_anew_is_carried_on():
    before = SERVER.but({ENERGY.format(0): "262143328000"})
    first, _ = polled(before, SERVER.but({ENERGY.format(0): "199999150"}))
    assert first.power_w == pytest.approx(100.0)


@pytest.mark.parametrize("later", [None, "-5", "many", str(2**64)])
def test_energy_that_only_root_may_read_is_unknown(later):
    first, _ = polled(SERVER, SERVER.but({ENERGY.format(0): later}))
    assert first.power_w is None


def test_the_power_of_a_package_that_two_domains_share_is_nobodys():
    shared = {
        f"/sys/devices/system/cpu/cpu{cpu}/topology/{name}": text
        for cpu in (0, 16)
        for name, text in (("physical_package_id", "0"), ("package_cpus_list", "0-63"))
    }
    one = SERVER.but(shared)
    after = one.but({ENERGY.format(0): "100000600000"})
    readings = polled(one, after)
    assert [r.power_w for r in readings] == [None, None]
    assert [r.temperature_c for r in readings] == [41.0, 41.0]


def test_each_domain_has_the_temperature_of_its_package():
    assert [r.temperature_c for r in polled(SERVER)] == [41.0, 44.0]
    odd = SERVER.but({"/sys/class/hwmon/hwmon1/temp1_input": "-274000"})
    assert [r.temperature_c for r in polled(odd)] == [None, 44.0]


def test_a_sensor_without_a_package_belongs_to_the_only_one():
    host = in_memory("cpu", "captured-epyc-2cpu").but(
        {
            "/sys/class/hwmon/hwmon3/name": "k10temp\n",
            "/sys/class/hwmon/hwmon3/temp1_label": "Tctl\n",
            "/sys/class/hwmon/hwmon3/temp1_input": "53625\n",
        }
    )
    assert [r.temperature_c for r in polled(host)] == [53.625]


def test_a_package_that_became_too_hot_is_throttled_and_the_other_is_not():
    first, second = polled(SERVER, SERVER.but({THROTTLE.format(16): "4"}))
    assert (first.throttled, second.throttled) == ((), ("thermal",))


def test_memory_errors_are_told_of_the_socket_that_has_them():
    first, second = polled(SERVER.but({"/sys/devices/system/edac/mc/mc1/ue_count": "2"}))
    assert first.faults == ()
    assert "2 uncorrectable memory errors at controller mc1" in second.faults[0]


def test_memory_in_use_leaves_out_file_caches():
    used = 264140200 - 250000000 - 1000000 - 2000000 - 140200
    assert [r.memory_used_bytes for r in polled(SERVER)] == [used * KIB] * 2
    hidden = SERVER.but({"/sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 5 kB\n"})
    assert polled(hidden)[0].memory_used_bytes is None


def test_the_only_domain_uses_what_is_not_available():
    host = in_memory("cpu", "captured-epyc-2cpu").but(
        {"/proc/meminfo": "MemTotal: 4000000 kB\nMemFree: 1 kB\nMemAvailable: 3000000 kB\n"}
    )
    assert polled(host)[0].memory_used_bytes == 1000000 * KIB


def test_a_container_counts_its_own_memory():
    group = {
        "/sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
        "/sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {GIB}\n",
    }
    host = in_memory("cpu", BOX)
    assert [r.memory_used_bytes for r in polled(host.but(group))] == [2 * GIB]
    assert [r.memory_used_bytes for r in polled(host)] == [None]
