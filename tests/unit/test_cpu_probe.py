"""The CPU probe on recorded machines and on what is missing from them."""

from __future__ import annotations

import pytest
from support.hosts import FakeHost, in_memory, recorded

from actors.probe import Broken, Found
from actors.probes.cpu import CpuProbe
from placement.ids import NodeId
from placement.units import GIB, KIB

NODE = NodeId("n")


def found(host) -> Found:
    outcome = CpuProbe().probe(host, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def shares(host) -> dict[str, int]:
    return {device.id: device.shares for device in found(host).devices}


def test_captured_single_socket():
    outcome = found(recorded("cpu", "captured-epyc-2cpu"))
    (device,) = outcome.devices
    assert (device.id, device.device_class, device.shares, device.handle) == (
        "n/cpu0",
        "CPU_AVX512",
        2,
        "0-1",
    )
    assert device.memory_bytes == 24684092 * KIB - int(0.1 * 24684092 * KIB)
    assert outcome.cpu is not None
    assert (outcome.cpu.sockets, outcome.cpu.cores, outcome.cpu.threads) == (1, 2, 2)
    assert outcome.cpu.isa == {"avx2", "avx512", "vnni", "bf16"}
    assert outcome.cpu.memory_limit_bytes is None, "a v1 limit near 2^63 is no limit"


def test_dual_socket_with_smt_is_two_devices_of_physical_cores():
    outcome = found(recorded("cpu", "synthetic-dual-socket-smt"))
    first, second = outcome.devices
    assert (first.id, second.id) == ("n/cpu0", "n/cpu1")
    assert (first.shares, second.shares) == (16, 16)
    assert (first.handle, second.handle) == ("0-15,32-47", "16-31,48-63")
    assert first.memory_bytes == second.memory_bytes
    assert first.memory_bytes + second.memory_bytes == pytest.approx(528280400 * KIB - 8 * GIB)
    assert {first.device_class, second.device_class} == {"CPU_AMX"}
    assert first.identity != second.identity
    assert outcome.cpu is not None
    assert (outcome.cpu.sockets, outcome.cpu.cores, outcome.cpu.threads) == (2, 32, 64)


def test_a_container_with_two_cpus_of_64_has_two():
    outcome = found(recorded("cpu", "synthetic-container-2-of-64"))
    (device,) = outcome.devices
    assert device.shares == 2
    assert device.memory_bytes == 8 * GIB - int(0.1 * 8 * GIB)
    assert outcome.cpu is not None
    assert (outcome.cpu.usable_cores, outcome.cpu.threads) == (2, 64)
    assert outcome.cpu.memory_limit_bytes == 8 * GIB


def test_arm_without_numa_is_one_generic_device():
    outcome = found(recorded("cpu", "synthetic-arm64"))
    (device,) = outcome.devices
    assert (device.device_class, device.shares, device.handle) == ("CPU", 4, "0-3")
    assert outcome.cpu is not None
    assert (outcome.cpu.architecture, outcome.cpu.sockets, outcome.cpu.cores) == (
        "aarch64",
        None,
        4,
    )
    assert {"neon", "sve", "bf16"} == outcome.cpu.isa


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/sys/fs/cgroup/cpu.max": "150000 100000\n"}, {"n/cpu0": 1}),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000\n"}, {"n/cpu0": 1}),
        ({"/sys/fs/cgroup/cpu.max": "2000000 100000\n"}, {"n/cpu0": 16, "n/cpu1": 4}),
        ({"/sys/fs/cgroup/cpu.max": "garbage\n"}, {"n/cpu0": 16, "n/cpu1": 16}),
        (
            {
                "/proc/self/cgroup": "3:cpu,cpuacct:/a/b\n",
                "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "300000\n",
                "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
                "/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
            },
            {"n/cpu0": 3},
        ),
        (
            {
                "/proc/self/cgroup": "0::/pod/box\n",
                "/sys/fs/cgroup/pod/cpu.max": "400000 100000\n",
                "/sys/fs/cgroup/pod/box/cpu.max": "900000 100000\n",
            },
            {"n/cpu0": 4},
        ),
        ({"/proc/self/status": "Cpus_allowed_list:\t16-17,48\n"}, {"n/cpu1": 2}),
        ({"/proc/self/status": "Cpus_allowed_list:\t0,32\n"}, {"n/cpu0": 1}),
        ({"/proc/self/status": None}, {"n/cpu0": 16, "n/cpu1": 16}),
        ({"/sys/devices/system/node": None}, {"n/cpu0": 32}),
        ({"/proc/cpuinfo": None}, {"n/cpu0": 32, "n/cpu1": 32}),
        ({"/sys/devices/system/cpu": None}, {"n/cpu0": 16, "n/cpu1": 16}),
        ({"/proc/self/cgroup": None}, {"n/cpu0": 16, "n/cpu1": 16}),
        ({"/proc/self/cgroup": "0::/../../x\n"}, {"n/cpu0": 16, "n/cpu1": 16}),
        ({"/proc/self/cgroup": "nonsense"}, {"n/cpu0": 16, "n/cpu1": 16}),
    ],
)
def test_usable_cores(files, expected):
    assert shares(in_memory("cpu", "synthetic-dual-socket-smt").but(files)) == expected


def test_an_affinity_to_one_socket_leaves_the_memory_of_the_other():
    host = in_memory("cpu", "synthetic-dual-socket-smt")
    whole = sum(device.memory_bytes for device in found(host).devices)
    (device,) = found(host.but({"/proc/self/status": "Cpus_allowed_list:\t16-31\n"})).devices
    assert device.memory_bytes < 0.55 * whole


def test_domains_that_hide_their_memory_share_by_processors():
    hidden = {f"/sys/devices/system/node/node{k}/meminfo": None for k in (0, 1)}
    first, second = found(in_memory("cpu", "synthetic-dual-socket-smt").but(hidden)).devices
    assert first.memory_bytes == second.memory_bytes > 0


def test_smt_that_cannot_be_told_counts_logical_cpus():
    host = FakeHost(
        {"/proc/cpuinfo": "processor: 0\n\nprocessor: 1\n", "/proc/meminfo": "MemTotal: 1024 kB"}
    )
    outcome = found(host)
    assert [device.shares for device in outcome.devices] == [2]
    assert outcome.cpu is not None
    assert outcome.cpu.cores is None
    assert outcome.cpu.sockets is None
    assert outcome.cpu.model is None


@pytest.mark.parametrize(
    "meminfo", [None, "", "MemTotal: 0 kB\n", "MemTotal: -5 kB\n", "MemTotal: many kB\n"]
)
def test_unknown_memory_gives_facts_but_no_device(meminfo):
    outcome = found(in_memory("cpu", "captured-epyc-2cpu").but({"/proc/meminfo": meminfo}))
    assert outcome.devices == ()
    assert outcome.cpu is not None
    assert outcome.cpu.memory_bytes is None
    assert "memory" in outcome.broken[0].reason


@pytest.mark.parametrize(
    ("flags", "device_class"),
    [
        ("sse2 avx", "CPU"),
        ("sse2 avx avx2 avx_vnni", "CPU_AVX2"),
        ("avx2 avx512f", "CPU_AVX512"),
        ("avx2 avx512f amx_tile amx_bf16", "CPU_AMX"),
    ],
)
def test_the_class_follows_the_instruction_set(flags, device_class):
    cpuinfo = f"processor\t: 0\nflags\t\t: {flags}\n"
    host = FakeHost({"/proc/cpuinfo": cpuinfo, "/proc/meminfo": "MemTotal: 1048576 kB\n"})
    assert [d.device_class for d in found(host).devices] == [device_class]


def test_a_machine_that_tells_nothing_is_broken_with_a_hint():
    outcome = CpuProbe().probe(FakeHost(), NODE)
    assert isinstance(outcome, Broken)
    assert "/proc" in outcome.hint
