"""JSON Schemas of the formats that users and tests rely on.

The plan document has its shape here as a model, so that a test can hold the printed document against it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from actors.declared_grammar import declaration_schema

from .inventory_file import InventoryFile
from .spec_grammar import Spec

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Open(BaseModel):
    """Keys may be added, none renamed."""

    model_config = ConfigDict(strict=True, extra="allow")


class PlannedStage(_Open):
    """Layers [first, end) on the devices of one node."""

    layers: tuple[int, int]
    node: str
    devices: list[str]


class Prediction(_Open):
    """What the cost model expects of one replica; milliseconds, watts, GiB."""

    ttft_ms: float
    token_ms: float
    tokens_per_s: float
    watts: float
    price_per_hour: float
    memory_gib_per_device: float


class PlannedSlot(_Open):
    """One planned replica."""

    slot: str
    model: str
    engine: str
    dtype: str
    tp: int
    pp: int
    stages: list[PlannedStage]
    predicted: Prediction
    why: dict[str, Any]


class RejectedCandidate(_Open):
    """Why a way to place a model lost."""

    model: str
    device_class: str = Field(alias="class")
    tp: int
    constraint: str
    reason: str
    shortage: float


class SuggestedFix(_Open):
    """A change of the spec, and what it says."""

    change: dict[str, Any]
    says: str


class MoreHardware(_Open):
    """Devices with which the spec is feasible as it is; `what_if` is for `plan --what-if`."""

    what_if: str
    says: str


class PipelineDepth(_Open):
    """One layout of a model in stages."""

    stages: int
    flow_tokens_per_s: float
    decode_tokens_per_s: float
    ttft_s: float
    token_s: float
    chosen: bool


class PlanDocument(_Open):
    """What `shardyard plan -o json` prints."""

    feasible: bool
    generation: int
    policy: str
    seed: int
    value: float
    bound: float
    dual_bound: float
    gap: float
    proven: bool
    proof: Literal["prices", "search", "none"]
    cpu_s: float
    slots: list[PlannedSlot]
    unplaced: list[str]
    rejections: list[RejectedCandidate]
    prices: dict[str, float]
    conflict: list[str]
    fixes: list[SuggestedFix]
    additions: list[MoreHardware]
    fronts: dict[str, list[PipelineDepth]] = Field(default_factory=dict)
    made_for: dict[str, str] = Field(default_factory=dict)


def json_schema(kind: Literal["app", "inventory", "plan"] | str) -> dict[str, Any]:
    """The JSON Schema of a spec, an inventory or a plan document."""
    models: dict[str, type[BaseModel]] = {
        "app": Spec,
        "inventory": InventoryFile,
        "plan": PlanDocument,
    }
    found = models[kind].model_json_schema(by_alias=True)
    if kind == "inventory":
        _join_declaration(found)
    if kind == "app":
        _join_short_forms(found)
    return {"$schema": _DIALECT, "title": f"shardyard {kind}", **_untitled(found)}


def _join_declaration(schema: dict[str, Any]) -> None:
    """A node's `cpu` and `devices` are described where they are read; `emulated` of an entry is the file's own."""
    declared = declaration_schema()
    schema["$defs"] |= declared["$defs"]
    schema["$defs"]["Group"]["properties"]["emulated"] = {"type": "boolean"}
    schema["$defs"]["NodeEntry"]["properties"] |= declared["properties"]


def _join_short_forms(schema: dict[str, Any]) -> None:
    """`replicas: 3` and `policy: latency` are read as their long forms."""
    replicas = schema["$defs"]["Model"]["properties"]["replicas"]
    replicas["anyOf"] = [{"type": "integer", "minimum": 1}, {"$ref": replicas.pop("$ref")}]
    policy = schema["properties"]["policy"]
    names = ["latency", "throughput", "energy", "cost", "balanced"]
    own = {"type": "string", "description": "one of `policies`"}
    policy["anyOf"] = [{"enum": names}, own, {"$ref": policy.pop("$ref")}]


def _untitled(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "title"}
