"""Runs a command on a pretended machine: in a mount namespace of its own, with another `/sys` and more in `/dev`.

    python -P actors/standins/namespace.py --tree DIR [--bind SOURCE:PLACE]... -- COMMAND...

Decides what of the real machine stays visible: processors, cgroups, kernel and network, so that Ray and the CPU probe
work as ever; all other hardware is what `DIR/sys` says. `DIR/dev/devices` lists character devices by line: path, major,
minor. Run by path, as the parent of any process: it imports nothing of ours, and must not know whose devices they are.
Nothing is left on the machine afterwards, because no other process ever sees these mounts.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

KEPT = (
    "devices/system",
    "devices/virtual/net",
    "class/net",
    "fs",
    "kernel",
    "module",
    "block",
)
"""Folders of the real `/sys` that stay visible where the tree has none of its own."""

CHECK_TIMEOUT_S = 10.0

_NEW_NAMESPACE = 0x00020000
_BIND, _MOVE, _RECURSIVE, _PRIVATE = 4096, 8192, 16384, 1 << 18
_LIBC = ctypes.CDLL(None, use_errno=True)


def prefix(tree: Path, binds: Sequence[tuple[str, str]] = ()) -> tuple[str, ...]:
    """What to put before a command line so that it runs on the machine of this tree.

    Args:
        binds: file or folder -> where it appears, e.g. a tool -> `/usr/bin/some-smi`.
    """
    wanted = [word for source, place in binds for word in ("--bind", f"{source}:{place}")]
    return (sys.executable, "-P", __file__, "--tree", str(tree), *wanted, "--")


@cache
def reason() -> str:
    """Why this cannot be done here, in a sentence; empty = it can."""
    if os.geteuid() != 0:
        return "a mount namespace with devices needs root"
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        (tree / "sys").mkdir()
        (tree / "dev").mkdir()
        (tree / "dev/devices").write_text("/dev/shardyard/null 1 3\n", encoding="utf-8")
        opens = "test -c /dev/shardyard/null && : > /dev/shardyard/null && : < /proc/self/stat"
        try:
            tried = subprocess.run(  # noqa: S603 - our own file, and a fixed command
                [*prefix(tree), "/bin/sh", "-c", opens],
                capture_output=True,
                text=True,
                timeout=CHECK_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"a mount namespace could not be tried: {error}"
    said = tried.stderr.strip().splitlines()
    return "" if tried.returncode == 0 else said[-1] if said else "this kernel refuses it"


def main(argv: Sequence[str]) -> None:
    """Enters the namespace and becomes the command: same process id, so signals reach it."""
    parser = argparse.ArgumentParser(prog="namespace", description=__doc__)
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--bind", action="append", default=[], metavar="SOURCE:PLACE")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(argv)
    try:
        enter(given.tree.resolve(), [tuple(pair.split(":", 1)) for pair in given.bind])
        os.execvp(given.command[0], given.command)  # noqa: S606 - the caller's own command
    except (OSError, ValueError) as error:
        sys.exit(f"namespace: {error}")


def enter(tree: Path, binds: Sequence[tuple[str, ...]] = ()) -> None:
    """Moves this process onto the machine of the tree; there is no way back.

    Raises:
        OSError: the kernel refuses a step; it is named.
        ValueError: a bind is not of the form `SOURCE:PLACE`.
    """
    if any(len(pair) != 2 for pair in binds):
        raise ValueError("--bind takes SOURCE:PLACE")
    if _LIBC.unshare(_NEW_NAMESPACE) != 0:
        raise _refused("unshare", "a mount namespace")
    _mount("none", Path("/"), flags=_RECURSIVE | _PRIVATE)
    if (tree / "sys").is_dir():
        _enter_sys(tree / "sys")
    if (tree / "dev/devices").is_file():
        _enter_dev(tree / "dev", (tree / "dev/devices").read_text("utf-8"))
    _bind(tree, [(Path(source).resolve(), Path(place)) for source, place in binds])


def _enter_sys(pretended: Path) -> None:
    for name in KEPT:
        real, place = Path("/sys") / name, pretended / name
        if real.is_dir() and not (place.is_dir() and any(place.iterdir())):
            place.mkdir(parents=True, exist_ok=True)
            _mount(real, place, flags=_BIND | _RECURSIVE)
    _mount(pretended, Path("/sys"), flags=_BIND | _RECURSIVE)


def _enter_dev(staging: Path, devices: str) -> None:
    """The real `/dev` is one file system for everybody: a folder made in it would be seen outside."""
    _mount("tmpfs", staging, kind="tmpfs", data="mode=755")
    for entry in sorted(Path("/dev").iterdir()):
        _same(entry, staging / entry.name)
    for line in devices.splitlines():
        path, major, minor = line.split()
        place = staging / path.removeprefix("/dev/")
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(int(major), int(minor)))
        place.chmod(0o666)
    _mount(staging, Path("/dev"), flags=_MOVE)


def _same(real: Path, place: Path) -> None:
    """Makes an entry of `/dev` again: nodes are copied, folders are shared."""
    facts = real.lstat()
    if stat.S_ISLNK(facts.st_mode):
        place.symlink_to(real.readlink())
    elif stat.S_ISDIR(facts.st_mode):
        place.mkdir()
        _mount(real, place, flags=_BIND | _RECURSIVE)
    elif stat.S_ISCHR(facts.st_mode) or stat.S_ISBLK(facts.st_mode):
        os.mknod(place, facts.st_mode, facts.st_rdev)
        os.chown(place, facts.st_uid, facts.st_gid)
        place.chmod(stat.S_IMODE(facts.st_mode))


def _bind(tree: Path, binds: Sequence[tuple[Path, Path]]) -> None:
    """Shows files and folders; where a place does not exist, in a copy-on-write view of its folder."""
    missing = {place.parent.resolve() for _, place in binds if not place.exists()}
    for number, folder in enumerate(sorted(missing)):
        _writable(folder, tree / f"overlay{number}")
    for source, place in binds:
        if not place.exists():
            (place.mkdir if source.is_dir() else place.touch)()
        _mount(source, place, flags=_BIND | _RECURSIVE)


def _writable(folder: Path, scratch: Path) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", scratch, kind="tmpfs")
    upper, work = scratch / "upper", scratch / "work"
    upper.mkdir()
    work.mkdir()
    layers = f"lowerdir={folder},upperdir={upper},workdir={work}"
    _mount("overlay", folder, kind="overlay", data=layers)


def _mount(
    source: Path | str, place: Path, *, kind: str = "", flags: int = 0, data: str = ""
) -> None:
    words = [os.fsencode(word) or None for word in (str(source), str(place), kind)]
    if _LIBC.mount(*words, ctypes.c_ulong(flags), os.fsencode(data) or None) != 0:
        raise _refused("mount", str(place))


def _refused(what: str, where: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}", where)


if __name__ == "__main__":
    main(sys.argv[1:])
