"""What a machine says of itself besides its devices: its names, and the limits of the container we may be in.

Decides how a node is called when nobody names it, and which of several cgroup limits counts: the tightest. It must not
know devices or probes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from placement.errors import SpecError
from placement.ids import NodeId

from .host import Host

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def hostname(host: Host) -> str:
    """The kernel's name of the machine; `localhost` when it does not tell."""
    text = host.read("/proc/sys/kernel/hostname") or host.read("/etc/hostname") or ""
    return text.strip() or "localhost"


def machine_id(host: Host) -> str | None:
    """The installation's id (32 hex digits), or None; a container image often has none."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        text = (host.read(path) or "").strip().lower()
        if re.fullmatch(r"[0-9a-f]{32}", text):
            return text
    return None


def node_name(host: Host, explicit: str | None = None) -> NodeId:
    """The explicit name, else `<hostname>-<first 6 of the machine id>`, in the characters of a Ray label.

    Raises:
        SpecError: the explicit name cannot be a label, or has a slash, which separates a node from its device.
    """
    if explicit:
        if not _NAME.fullmatch(explicit):
            raise SpecError(
                f"{explicit!r} cannot name a node",
                hint="use up to 63 letters, digits, '.', '_' and '-', e.g. --name gpu-1",
            )
        return NodeId(explicit)
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", hostname(host))[:56].strip("._-") or "node"
    suffix = (machine_id(host) or "")[:6]
    return NodeId(f"{short}-{suffix}" if suffix else short)


def cpu_quota(host: Host) -> float | None:
    """CPUs' worth of time that the cgroups allow, e.g. 1.5; None = no limit."""
    quotas = [
        quota
        for folder in _cgroup_folders(host, "cpu", "cpu,cpuacct")
        if (quota := _quota_v2(host, folder) or _quota_v1(host, folder))
    ]
    return min(quotas, default=None)


def memory_limit_bytes(host: Host) -> int | None:
    """The tightest memory limit of the cgroups; None = no limit (a v1 limit near 2^63 means none, too)."""
    return min((limit for limit, _ in _memory_limits(host)), default=None)


def memory_in_use_bytes(host: Host) -> int | None:
    """What the group with the tightest limit uses, without file caches that it could drop; None = no limit, or unknown."""
    _, folder = min(_memory_limits(host), default=(0, ""))
    for name, cache in (
        ("memory.current", "inactive_file"),
        ("memory.usage_in_bytes", "total_inactive_file"),
    ):
        used = number(host.read(f"{folder}/{name}")) if folder else None
        if used is not None and used >= 0:
            found = re.search(
                rf"^{cache} ([0-9]{{1,19}})$",
                host.read(f"{folder}/memory.stat") or "",
                re.MULTILINE,
            )
            return max(0, used - (int(found[1]) if found else 0))
    return None


def number(text: str | None) -> int | None:
    """A whole number in decimal digits, as the kernel writes it; anything else is None."""
    stripped = (text or "").strip()
    return int(stripped) if re.fullmatch(r"-?[0-9]{1,19}", stripped) else None


def _memory_limits(host: Host) -> list[tuple[int, str]]:
    """Each limit of memory, with the folder of its group."""
    return [
        (limit, folder)
        for folder in _cgroup_folders(host, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := number(host.read(f"{folder}/{name}"))) and 0 < limit < 2**60
    ]


def _quota_v2(host: Host, folder: str) -> float | None:
    quota, _, period = (host.read(f"{folder}/cpu.max") or "").strip().partition(" ")
    return _ratio(number(quota), number(period))


def _quota_v1(host: Host, folder: str) -> float | None:
    quota = number(host.read(f"{folder}/cpu.cfs_quota_us"))
    return _ratio(quota, number(host.read(f"{folder}/cpu.cfs_period_us")))


def _ratio(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period and quota > 0 and period > 0 else None


def _cgroup_folders(host: Host, *controllers: str) -> Iterator[str]:
    """Our group and its ancestors, version 2 and 1; those that a container does not show are simply absent."""
    rows = [line.split(":", 2) for line in (host.read("/proc/self/cgroup") or "").splitlines()]
    paths = {names: path for _, names, path in (row for row in rows if len(row) == 3)}
    yield from _ancestors("/sys/fs/cgroup", paths.get("", "/"))
    for controller in controllers:
        yield from _ancestors(f"/sys/fs/cgroup/{controller}", paths.get(controller, "/"))


def _ancestors(base: str, path: str) -> Iterator[str]:
    # A path with ".." is seen from another cgroup namespace: only the root is ours to read.
    parts = (
        [part for part in path.split("/") if part] if ".." not in path.split("/") else list[str]()
    )
    for depth in range(len(parts), 0, -1):
        yield "/".join([base, *parts[:depth]])
    yield base
