"""JSON of the core nouns, strict both ways, and the documents that commands print. Knows shapes only.

Goes through JSON: strict models do not read Python dicts back. Unknown keys are refused.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from .errors import SpecError
from .plan import Fix, Infeasible, Plan, Predicted, Rejection, Slot
from .units import GIB

T = TypeVar("T")

EXACT = ("ttft_s", "token_s", "token_s_fixed", "token_s_per_sequence", "memory_bytes")
"""Predicted figures that a document has in their own unit too, as a change of unit would round them."""


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
        "dual_bound": plan.dual_bound if plan else 0.0,
        "gap": plan.gap if plan else 0.0,
        "proven": plan.proven if plan else False,
        "proof": plan.proof if plan else "none",
        "cpu_s": round(cpu_s, 6),
        "slots": [_slot(slot) for slot in plan.slots] if plan else [],
        "unplaced": list(plan.unplaced) if plan else [],
        "rejections": [_rejection(r) for r in result.rejections],
        "prices": dict(plan.prices) if plan else {},
        "conflict": list(failed.conflict) if failed else [],
        "fixes": [_fix(fix) for fix in failed.fixes] if failed else [],
        "additions": [document(one) for one in failed.additions] if failed else [],
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
        "kv_bytes": slot.kv_bytes,
        "predicted": _predicted(slot.predicted),
        "why": _why(slot),
    }


def _predicted(predicted: Predicted) -> dict[str, Any]:
    """Figures for people (milliseconds, GiB), then those that do not survive a change of unit as they are."""
    return {
        "ttft_ms": predicted.ttft_s * 1e3,
        "token_ms": predicted.token_s * 1e3,
        "tokens_per_s": predicted.tokens_per_s,
        "prefill_tokens_per_s": predicted.prefill_tokens_per_s,
        "watts": predicted.power_w,
        "price_per_hour": predicted.price_per_hour,
        "memory_gib_per_device": predicted.memory_bytes / GIB,
        "load_s": predicted.load_s,
        "uncertainty": predicted.uncertainty,
        **{name: getattr(predicted, name) for name in EXACT},
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
    """`set` has the changes again, each path key by key: a model's name may hold dots."""
    steps = zip(fix.paths, fix.change, strict=False)
    return {
        "change": dict(fix.change),
        "says": fix.says,
        "set": [{"path": list(path), "value": value} for path, (_, value) in steps],
    }
