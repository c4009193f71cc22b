"""`python -m actors.standins.rebellions.beside CLASS COUNT PORT -- COMMAND`: becomes the command, with a daemon beside it.

The daemon is a child that ends when the command and everything that inherits its open files have ended.
"""

from __future__ import annotations

import os
import subprocess
import sys

PACKAGE = "actors.standins.rebellions"


def main(argv: list[str]) -> None:
    """Never returns."""
    split = argv.index("--")
    daemon, command = argv[:split], argv[split + 1 :]
    ours, kept = os.pipe()
    subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", PACKAGE, *daemon], stdin=ours, stdout=subprocess.DEVNULL
    )
    os.close(ours)
    os.set_inheritable(kept, True)
    os.execv(command[0], command)  # noqa: S606 - the caller's own command


if __name__ == "__main__":
    main(sys.argv[1:])
