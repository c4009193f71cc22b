"""Request, control and install branches of the error tree (root: placement.errors).

RequestError     request.*    one client's request
ControlError     control.*    controller, cluster, ownership
├── Unreachable  control.unreachable
└── TimedOut     control.timeout
InstallError     install.*    the installation
"""

from __future__ import annotations

from placement.errors import ShardyardError


class RequestError(ShardyardError):
    """One client's request cannot be answered as asked."""

    code = "request.invalid"


class ControlError(ShardyardError):
    """The cluster cannot do what its operator asked."""

    code = "control.error"


class Unreachable(ControlError):
    """No controller answers."""

    code = "control.unreachable"
    retryable = True


class TimedOut(ControlError):
    """A controller is there and did not finish in time."""

    code = "control.timeout"
    retryable = True


class InstallError(ShardyardError):
    """The installation is incomplete or mixed with another one."""

    code = "install.broken"
