"""Request, control and install branches of the error tree (root: placement.errors)."""

from __future__ import annotations

from placement.errors import ShardyardError


class RequestError(ShardyardError):
    """One client's request cannot be answered. Which HTTP status that is, only gateway.problems knows.

    Attributes:
        reason: the client-facing code, e.g. `model_not_found`, `queue_full`.
        param: the request field concerned, or None.
        retry_after_s: when trying again may help, or None.
    """

    code = "request.failed"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        reason: str = "invalid_value",
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(
            message, hint=hint, reason=reason, param=param, retry_after_s=retry_after_s
        )
        self.reason = reason
        self.param = param
        self.retry_after_s = retry_after_s


class ControlError(ShardyardError):
    """The controller, the cluster or the ownership of a run is not as the command needs it."""

    code = "control.error"


class PortTaken(ControlError):
    """Another process listens on the port."""

    code = "control.port_taken"


class Unreachable(ControlError):
    """No controller or gateway answers."""

    code = "control.unreachable"
    retryable = True


class TimedOut(ControlError):
    """Somebody answers and did not finish in time."""

    code = "control.timeout"
    retryable = True


class InstallError(ShardyardError):
    """The installation is incomplete or shadowed by other packages."""

    code = "install.broken"
