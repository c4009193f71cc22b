"""`python -m orchestrator.labelled_start -- ray start ...`: looks at this machine, then becomes that command with the
labels of what was found. Run inside a node's own environment, so that it meets what the node's agent will meet.
"""

from __future__ import annotations

import os
import sys

from actors.host import RealHost
from actors.node_labels import labels_of
from actors.prober import prober_of_this_node
from placement.errors import ShardyardError

OPTION = "--labels="


def labelled(argv: list[str], labels: dict[str, str]) -> list[str]:
    """The command line with more labels; those that it has already win.

    >>> labelled(["ray", "start", "--labels=a=1"], {"b": "2"})
    ['ray', 'start', '--labels=b=2,a=1']
    """
    given = [word.removeprefix(OPTION) for word in argv if word.startswith(OPTION)]
    kept = [word for word in argv if not word.startswith(OPTION)]
    joined = ",".join([*(f"{key}={value}" for key, value in labels.items()), *given])
    return [*kept, f"{OPTION}{joined}"] if joined else kept


def main() -> None:
    """Never returns: the process becomes Ray's. Without labels when the machine cannot be looked at."""
    command = sys.argv[sys.argv.index("--") + 1 :]
    labels: dict[str, str] = {}
    host = RealHost()
    try:
        labels = dict(labels_of(prober_of_this_node(host, "").report()))
    except ShardyardError as error:
        sys.stderr.write(f"{error.message}\n")
    finally:
        host.libraries.close()
    os.execv(command[0], labelled(command, labels))  # noqa: S606 - our own command line, no shell


if __name__ == "__main__":
    main()
