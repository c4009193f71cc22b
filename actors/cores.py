"""Which cores of a machine an engine may use alone: claimed by locks on files, which the kernel drops with their holder.

Decides how a number of planned cores becomes a set of logical CPUs that nobody else of ours has. It must not know engines.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger()

CORES_SHORT = "cores.short"

_TOPOLOGY = Path("/sys/devices/system/cpu")


class CoreClaim:
    """Cores that are held until `release`, or until this process ends.

    Attributes:
        cpus: logical CPUs, those of one core next to each other; empty = nothing was free, so run anywhere.
    """

    def __init__(self, cpus: tuple[int, ...], locks: Sequence[int]) -> None:
        self.cpus = cpus
        self._locks = list(locks)

    def release(self) -> None:
        """Gives the cores back. Idempotent."""
        while self._locks:
            os.close(self._locks.pop())


def claim_cores(
    count: int,
    *,
    cores: Sequence[tuple[int, ...]] | None = None,
    folder: Path | None = None,
) -> CoreClaim:
    """So many cores that no other claim on this machine holds; none at all when there are fewer.

    Args:
        cores: logical CPUs of each core; None = those that this process may run on.
        folder: where the locks lie; one for all processes of a user on a machine.
    """
    known = physical_cores() if cores is None else cores
    place = folder or Path(tempfile.gettempdir()) / f"shardyard-cores-{os.getuid()}"
    if count < 1:
        return CoreClaim((), ())
    locks: list[int] = []
    taken: list[int] = []
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        for cpus in known:
            if len(locks) == count:
                break
            lock = _locked(place / f"core-{cpus[0]}")
            if lock is not None:
                locks.append(lock)
                taken += cpus
    except OSError as error:
        log.warning(CORES_SHORT, wanted=count, reason=str(error))
    claim = CoreClaim(tuple(taken), locks)
    if len(locks) == count:
        return claim
    claim.release()
    log.warning(CORES_SHORT, wanted=count, free=len(locks), cores=len(known))
    return CoreClaim((), ())


def physical_cores(
    allowed: Iterable[int] | None = None, topology: Path = _TOPOLOGY
) -> tuple[tuple[int, ...], ...]:
    """The logical CPUs that may be used, by physical core, in order of socket and core."""
    usable = set(os.sched_getaffinity(0) if allowed is None else allowed)
    cores: dict[tuple[int, ...], int] = {}
    for cpu in sorted(usable):
        siblings = tuple(sorted(_siblings(cpu, topology) & usable)) or (cpu,)
        cores.setdefault(siblings, _number(topology / f"cpu{cpu}/topology/physical_package_id"))
    return tuple(sorted(cores, key=lambda cpus: (cores[cpus], cpus)))


def _siblings(cpu: int, topology: Path) -> set[int]:
    with suppress(OSError):
        return cpu_list((topology / f"cpu{cpu}/topology/thread_siblings_list").read_text())
    return {cpu}


def cpu_list(text: str) -> set[int]:
    """A list of CPUs as the kernel writes it.

    >>> sorted(cpu_list("0-2,8"))
    [0, 1, 2, 8]
    """
    found: set[int] = set()
    for first, last in re.findall(r"(\d{1,5})(?:-(\d{1,5}))?", text):
        found.update(range(int(first), int(last or first) + 1))
    return found


def _number(path: Path) -> int:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock; None while somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
