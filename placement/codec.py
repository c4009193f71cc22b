"""JSON of the core nouns, strict both ways, and the documents that commands print. Knows shapes only.

Goes through JSON: strict models do not read Python dicts back. Unknown keys are refused.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from .errors import SpecError
from .plan import Fix, Infeasible, Plan, Rejection, Slot
from .units import GIB

T = TypeVar("T")


def encode(value: object) -> bytes:
    """A core noun as JSON.

    >>> from .demand import Tenant
    >>> encode(Tenant(name="a"))
    b'{"name":"a","max_devices":[],"exclusive_nodes":false}'
    """
    return _writer(type(value)).dump_json(value)


def decode(kind: type[T], text: bytes | str) -> T:
    """The inverse of `encode`.

    Raises:
        SpecError: the text is no JSON of that noun; names the first key that does not fit.
    """
    raw = text.encode() if isinstance(text, str) else text
    try:
        return _reader(kind).validate_json(b'{"value":' + raw + b"}").value
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"][1:])) or kind.__name__
        raise SpecError(
            f"{kind.__name__} as JSON: {path}: {first['msg']}",
            hint="write it with the same version of shardyard",
            path=path,
        ) from error


@cache
def _writer(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _reader(kind: type[Any]) -> TypeAdapter[Any]:
    """A model around the noun: its configuration reaches into the plain dataclasses below."""
    config = ConfigDict(strict=True, extra="forbid")
    return TypeAdapter(
        create_model(f"{kind.__name__}Document", __config__=config, value=(kind, ...))
    )


def document(value: object) -> Any:
    """A core noun as JSON types (dicts, lists, numbers)."""
    return json.loads(encode(value))


def plan_document(result: Plan | Infeasible, cpu_s: float) -> dict[str, Any]:
    """What `plan -o json` prints: one shape for a plan and for infeasibility. `cpu_s` is of `solve()` alone."""
    plan = result if isinstance(result, Plan) else None
    failed = result if isinstance(result, Infeasible) else None
    return {
        "feasible": plan is not None,
        "generation": result.generation,
        "policy": result.policy,
        "seed": result.seed,
        "value": plan.value if plan else 0.0,
        "bound": plan.bound if plan else 0.0,
        "gap": plan.gap if plan else 0.0,
        "proven": plan.proven if plan else False,
        "cpu_s": round(cpu_s, 6),
        "slots": [_slot(slot) for slot in plan.slots] if plan else [],
        "unplaced": list(plan.unplaced) if plan else [],
        "rejections": [_rejection(r) for r in result.rejections],
        "prices": dict(plan.prices) if plan else {},
        "conflict": list(failed.conflict) if failed else [],
        "fixes": [_fix(fix) for fix in failed.fixes] if failed else [],
    }


def _slot(slot: Slot) -> dict[str, Any]:
    return {
        "slot": slot.id,
        "model": slot.model,
        "engine": slot.engine,
        "class": slot.device_class,
        "emulated": slot.emulated,
        "dtype": slot.dtype,
        "tp": slot.tp,
        "pp": slot.pp,
        "stages": [
            {
                "layers": list(stage.layers),
                "node": stage.node,
                "devices": list(stage.devices),
                "shares": stage.shares,
            }
            for stage in slot.stages
        ],
        "predicted": {
            "ttft_ms": slot.predicted.ttft_s * 1e3,
            "token_ms": slot.predicted.token_s * 1e3,
            "tokens_per_s": slot.predicted.tokens_per_s,
            "prefill_tokens_per_s": slot.predicted.prefill_tokens_per_s,
            "watts": slot.predicted.power_w,
            "price_per_hour": slot.predicted.price_per_hour,
            "memory_gib_per_device": slot.predicted.memory_bytes / GIB,
            "load_s": slot.predicted.load_s,
            "uncertainty": slot.predicted.uncertainty,
        },
        "why": _why(slot),
    }


def _why(slot: Slot) -> dict[str, Any]:
    second = slot.why.runner_up
    return {
        "runner_up": None
        if second is None
        else {
            "class": second.device_class,
            "engine": second.engine,
            "tp": second.tp,
            "pp": second.pp,
            "loss": second.loss,
        },
        "binding": list(slot.why.binding),
    }


def _rejection(rejection: Rejection) -> dict[str, Any]:
    return {
        "model": rejection.model,
        "class": rejection.device_class,
        "engine": rejection.engine,
        "tp": rejection.tp,
        "node": rejection.node,
        "constraint": rejection.constraint,
        "reason": rejection.reason,
        "shortage": rejection.shortage,
        "resolvable": rejection.resolvable,
        "hint": rejection.hint,
    }


def _fix(fix: Fix) -> dict[str, Any]:
    return {"change": dict(fix.change), "says": fix.says}
