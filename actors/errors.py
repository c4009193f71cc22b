"""Device, model and engine branches of the error tree (root: placement.errors)."""

from __future__ import annotations

from placement.errors import ShardyardError


class DeviceError(ShardyardError):
    """A device cannot be used as planned."""

    code = "device.error"


class ModelError(ShardyardError):
    """A model source cannot be used."""

    code = "model.invalid"


class ModelMissing(ModelError):
    """The weights are not on this node; the hint is the command that brings them."""

    code = "model.missing"


class EngineError(ShardyardError):
    """An engine failed."""

    code = "engine.error"


class LoadFailed(EngineError):
    """An engine could not load its model."""

    code = "engine.load_failed"


class EngineCrashed(EngineError):
    """An engine process ended while it had work."""

    code = "engine.crashed"
    retryable = True


class Refused(ShardyardError):
    """A replica does not accept a request; said before its first frame.

    Attributes:
        reason: the client-facing code, e.g. `context_length_exceeded`, `queue_full`.
        param: the request field concerned, or None.
        retry_after_s: when trying again may help, or None.
    """

    code = "request.refused"

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
