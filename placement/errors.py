"""Root of the error tree. Every error says what happened, with values, and which command to type next.

    ShardyardError                     code, hint, retryable
    ├── SpecError            spec.*        the user's file or flag
    ├── PlacementError       placement.*   a promise of the solver was broken (infeasible is a value, not an error)
    │   └── StalePlan        placement.stale
    ├── DeviceError          device.*      (actors.errors)
    ├── ModelError           model.*       (actors.errors)
    ├── EngineError          engine.*      (actors.errors)
    ├── RequestError         request.*     (orchestrator.errors) one client's request
    ├── ControlError         control.*     (orchestrator.errors) controller, cluster, ownership
    └── InstallError         install.*     (orchestrator.errors)

Errors cross Ray, so each one can be pickled with its fields (see `__reduce__`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Self


class ShardyardError(Exception):
    """An outcome that nobody planned for, said in one clear sentence.

    Args:
        message: what happened, with the values concerned.
        hint: the next command to type, or what to change; empty when nothing helps.
        fields: machine-readable values (JSON types), e.g. `file`, `line`, `port`.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.fields)

    def as_dict(self) -> dict[str, Any]:
        """The error as one JSON object: code, message, hint, retryable and the fields."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            **self.fields,
        }

    @classmethod
    def rebuild(cls, message: str, hint: str, fields: dict[str, Any]) -> Self:
        """Inverse of `__reduce__`."""
        return cls(message, hint=hint, **fields)


def _rebuild(
    kind: type[ShardyardError], message: str, hint: str, fields: dict[str, Any]
) -> ShardyardError:
    return kind.rebuild(message, hint, fields)


class SpecError(ShardyardError):
    """The user's YAML or flag is wrong; `file` and `line` say where."""

    code = "spec.invalid"


class PlacementError(ShardyardError):
    """A solver broke a promise: the verifier refused its plan."""

    code = "placement.broken"


class StalePlan(PlacementError):
    """A plan was solved on another inventory generation than the one it is applied to."""

    code = "placement.stale"
    retryable = True
