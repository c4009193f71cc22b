"""The stand-in daemon as a program: class, count and port in, the port that it took out.

Ends with its standard input, that is with its owner.
"""

from __future__ import annotations

import sys

from .daemon import start_daemon

if __name__ == "__main__":
    with start_daemon(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])) as running:
        sys.stdout.write(f"{running.port}\n")
        sys.stdout.flush()
        sys.stdin.read()
