"""From a spec file to the core's nouns and back: `app.yaml` <-> App.

Decides how what a user writes becomes what is asked of the cluster, and says in which line it is wrong. It must not
know the inventory: whether a spec can be placed is the solver's word.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from placement.demand import App, Budgets, Demand, Rate, Tenant
from placement.errors import SpecError
from placement.ids import ModelId, NodeId
from placement.modelspec import ModelFacts, ModelSpec
from placement.policy import POLICIES, Policy
from placement.tuning import Tuning

from . import spec_grammar as grammar
from .yaml_positions import MAX_BYTES, Document, did_you_mean, read_yaml

STDIN = "-"

_CUSTOM = "custom"
"""Name of a policy that is given by its weights alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySpec:
    """The endpoint as a spec asks for it; None = the setting decides.

    Attributes:
        count: gateway processes that share the port.
        cors_origins: origins of web pages that may call the endpoint; `*` = all.
        ingress: our own server on a shared port, or Ray Serve's HTTP proxy.
    """

    host: str | None = None
    port: int | None = None
    count: int | None = None
    cors_origins: tuple[str, ...] = ()
    ingress: Literal["own", "serve"] = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A whole spec file: what is asked for, and how the endpoint is offered."""

    app: App
    gateway: GatewaySpec = GatewaySpec()


def load_spec(path: str | Path) -> Spec:
    """The spec of a file; `-` is standard input.

    Raises:
        SpecError: the file is missing or wrong; with file and line.
    """
    return parse_spec(read_spec(path), spec_name(path))


def load_app(path: str | Path) -> App:
    """What a spec file asks for. Raises as `load_spec` does."""
    return load_spec(path).app


def parse_app(text: str, name: str) -> App:
    """What the text of a spec asks for; `name` is used in messages. Raises as `parse_spec` does."""
    return parse_spec(text, name).app


def spec_name(path: str | Path) -> str:
    """What messages call a spec file."""
    return "<stdin>" if str(path) == STDIN else str(path)


def read_spec(path: str | Path, *, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file, or of standard input for `-`.

    Raises:
        SpecError: it cannot be read, is no text, or is too large.
    """
    name = spec_name(path)
    try:
        if str(path) == STDIN:
            data = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(max_bytes + 1)
    except OSError as error:
        hint = "check the path; `ls examples/` has specs to start from"
        raise SpecError(f"{name}: {error.strerror}", hint=hint, file=name) from None
    if len(data) > max_bytes:
        says = f"{name}: is larger than {max_bytes >> 10} KiB"
        raise SpecError(says, hint="is it the right file?", file=name)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        says = f"{name}: is not UTF-8 text (byte {error.start})"
        raise SpecError(says, hint="is it the right file?", file=name) from None


def parse_spec(text: str, name: str) -> Spec:
    """The spec in a text; `name` is used in messages.

    Raises:
        SpecError: with file, line, the value and what would be right.
    """
    document = read_yaml(text, name)
    spec = document.validate(grammar.Spec)
    tenants = {"default", *spec.tenants}
    for model, asked in spec.models.items():
        if asked.tenant not in tenants:
            path = ("models", model, "tenant")
            hint = did_you_mean(asked.tenant, tenants)
            raise document.error(path, f"no tenant is called {asked.tenant}", hint=hint)
    _check_policy(spec, document)
    return Spec(app=_app(spec), gateway=_gateway(spec.gateway))


def _check_policy(spec: grammar.Spec, document: Document) -> None:
    for name in spec.policies:
        if name in POLICIES or name == _CUSTOM:
            says = f"{name} is the name of a built-in policy"
            raise document.error(("policies", name), says, hint="give your own another name")
    known = {*POLICIES, *spec.policies}
    if spec.policy.name is not None and spec.policy.name not in known:
        hint = did_you_mean(spec.policy.name, known)
        raise document.error(("policy",), f"no policy is called {spec.policy.name}", hint=hint)


def pin_notes(app: App, nodes: Collection[str]) -> tuple[str, ...]:
    """Names of nodes that models are pinned to and that are not there: perhaps lost, perhaps a typing error."""
    return tuple(
        f"models.{demand.id}.constraints.pin: no node is called {name}; {did_you_mean(name, nodes)}"
        for demand in app.demands
        for name in sorted((demand.pin_nodes or frozenset()) - frozenset(nodes))
    )


def check_device_classes(app: App, known: Collection[str]) -> None:
    """Refuses device class names that neither the catalog nor the inventory has; a typing error would pass silently.

    Raises:
        SpecError: with the nearest name.
    """
    for demand in app.demands:
        for key, names in (("preferred", demand.preferred), ("banned", demand.banned)):
            for name in sorted(names - frozenset(known)):
                says = f"models.{demand.id}.constraints.{key}_hardware: no device class {name}"
                raise SpecError(says, hint=did_you_mean(name, known))
    for tenant in app.tenants:
        for name, _ in tenant.max_devices:
            if name not in known:
                says = f"tenants.{tenant.name}.max_devices: no device class {name}"
                raise SpecError(says, hint=did_you_mean(name, known))


def scaled(app: App, model: str, replicas: object) -> App:
    """The same app with another number of replicas of one model.

    Raises:
        SpecError: no such model, or no sane number.
    """
    names = [demand.id for demand in app.demands]
    if model not in names:
        raise SpecError(f"no model is called {model}", hint=did_you_mean(model, names))
    sane = isinstance(replicas, int) and not isinstance(replicas, bool)
    if not sane or not 0 <= replicas <= grammar.MAX_REPLICAS:
        raise SpecError(
            f"replicas of {model}: should be 0 to {grammar.MAX_REPLICAS}, not {replicas}",
            hint="to stop serving a model, remove it from the spec and `shardyard apply` it",
        )
    demands = tuple(
        replace(d, replicas_min=replicas, replicas_max=replicas) if d.id == model else d
        for d in app.demands
    )
    return replace(app, demands=demands)


def dump_app(app: App) -> str:
    """An app as YAML that `parse_app` reads back as an equal one."""
    return dump_spec(Spec(app=app))


def dump_spec(spec: Spec) -> str:
    """A spec as YAML that `parse_spec` reads back as an equal one; defaults are left out."""
    app, gateway = spec.app, spec.gateway
    document = _present(
        name=app.name,
        policy=_policy_yaml(app.policy),
        policies=_own_policies_yaml(app.policy),
        budgets=_present(power_watts=_power_yaml(app.budgets)),
        tenants={
            t.name: _present(max_devices=dict(t.max_devices), exclusive_nodes=t.exclusive_nodes)
            for t in app.tenants
        },
        models={demand.id: _model_yaml(demand) for demand in app.demands},
        gateway=_present(
            host=gateway.host,
            port=gateway.port,
            count=gateway.count,
            cors_origins=list(gateway.cors_origins),
            ingress=None if gateway.ingress == "own" else gateway.ingress,
        ),
    )
    return yaml.safe_dump(
        document, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120
    )


# -- from YAML ------------------------------------------------------------------------------------------------------


def _app(spec: grammar.Spec) -> App:
    power = spec.budgets.power_watts
    return App(
        name=spec.name,
        demands=tuple(_demand(name, model) for name, model in spec.models.items()),
        policy=_policy(spec),
        budgets=Budgets(cluster_w=power.cluster, rack_w=power.rack, node_w=power.node),
        tenants=tuple(
            Tenant(
                name=name,
                max_devices=tuple(sorted(tenant.max_devices.items())),
                exclusive_nodes=tenant.exclusive_nodes,
            )
            for name, tenant in spec.tenants.items()
        ),
    )


def _policy(spec: grammar.Spec) -> Policy:
    if spec.policy.weights is not None:
        return Policy(name=_CUSTOM, **spec.policy.weights.model_dump())
    name = spec.policy.name or "balanced"
    if name in POLICIES:
        return POLICIES[name]
    return Policy(name=name, **spec.policies[name].model_dump())


def _gateway(gateway: grammar.Gateway) -> GatewaySpec:
    return GatewaySpec(
        host=gateway.host,
        port=gateway.port,
        count=gateway.count,
        cors_origins=tuple(gateway.cors_origins),
        ingress=gateway.ingress,
    )


def _demand(name: str, model: grammar.Model) -> Demand:
    rules = model.constraints
    return Demand(
        model=_model_spec(name, model),
        replicas_min=model.replicas.min,
        replicas_max=model.replicas.max,
        context=model.context,
        concurrency=model.concurrency,
        dtype=None if model.dtype == "auto" else model.dtype,
        arithmetic=model.arithmetic,
        engines=None if model.engines is None else frozenset(model.engines),
        requires=frozenset(model.requires),
        tuning=_tuning(model.tuning),
        rate=None if model.rate is None else Rate(**model.rate.model_dump()),
        max_ttft_s=_seconds(rules.max_latency_ms),
        max_token_s=_seconds(rules.max_token_ms),
        min_tokens_per_s=rules.min_tokens_per_s,
        power_budget_w=rules.power_budget_watts,
        max_price_per_hour=rules.max_price_per_hour,
        preferred=frozenset(rules.preferred_hardware),
        banned=frozenset(rules.banned_hardware),
        spread=rules.spread,
        pin_nodes=None if rules.pin is None else frozenset(map(NodeId, rules.pin.node)),
        build=model.artifacts.build,
        tenant=model.tenant,
        priority=model.priority,
    )


def _model_spec(name: str, model: grammar.Model) -> ModelSpec:
    return ModelSpec(
        id=ModelId(name),
        source=model.source,
        tokenizer=model.tokenizer or model.source,
        facts=None if model.facts is None else ModelFacts(**model.facts.model_dump()),
    )


def _tuning(tuning: grammar.Tuning) -> Tuning:
    return Tuning(
        attention_backend=tuning.attention_backend or "",
        quantization=tuning.quantization or "",
        kv_dtype=tuning.kv_dtype or "",
        prefix_cache=tuning.prefix_cache,
        allow_pickle=tuning.allow_pickle,
        lora=tuple(sorted(tuning.lora.items())),
    )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


# -- to YAML --------------------------------------------------------------------------------------------------------


def _present(**values: Any) -> dict[str, Any]:
    """The keys that say something: no None, no empty list or mapping, no False."""
    return {
        k: v for k, v in values.items() if v is not None and v is not False and v not in ([], {})
    }


def _policy_yaml(policy: Policy) -> Any:
    if POLICIES.get(policy.name) == policy or _is_own(policy):
        return policy.name
    return {"weights": _weights_yaml(policy)}


def _is_own(policy: Policy) -> bool:
    return policy.name not in POLICIES and policy.name != _CUSTOM


def _own_policies_yaml(policy: Policy) -> dict[str, Any]:
    return {policy.name: _weights_yaml(policy)} if _is_own(policy) else {}


def _weights_yaml(policy: Policy) -> dict[str, float]:
    return {k: getattr(policy, k) for k in ("throughput", "latency", "energy", "cost")}


def _power_yaml(budgets: Budgets) -> dict[str, Any]:
    return _present(cluster=budgets.cluster_w, rack=budgets.rack_w, node=budgets.node_w)


def _model_yaml(demand: Demand) -> dict[str, Any]:
    model = demand.model
    facts = None if model.facts is None else _facts_yaml(model.facts)
    low, high = demand.replicas_min, demand.replicas_max
    return _present(
        source=model.source,
        tokenizer=None if model.tokenizer == model.source else model.tokenizer,
        facts=facts,
        replicas=low if low == high else {"min": low, "max": high},
        context=demand.context,
        concurrency=demand.concurrency,
        dtype=demand.dtype or "auto",
        arithmetic=demand.arithmetic,
        engines=None if demand.engines is None else sorted(demand.engines),
        requires=sorted(demand.requires),
        tuning=_tuning_yaml(demand.tuning),
        rate=None if demand.rate is None else _rate_yaml(demand.rate),
        constraints=_constraints_yaml(demand),
        artifacts=None if demand.build == "allowed" else {"build": demand.build},
        tenant=demand.tenant,
        priority=demand.priority,
    )


def _facts_yaml(facts: ModelFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in grammar.Facts.model_fields}


def _tuning_yaml(tuning: Tuning) -> dict[str, Any]:
    said = _present(
        attention_backend=tuning.attention_backend or None,
        quantization=tuning.quantization or None,
        kv_dtype=tuning.kv_dtype or None,
        allow_pickle=tuning.allow_pickle,
        lora=dict(tuning.lora),
    )
    return said if tuning.prefix_cache else {**said, "prefix_cache": False}


def _rate_yaml(rate: Rate) -> dict[str, Any]:
    return {name: getattr(rate, name) for name in grammar.Rate.model_fields}


def _constraints_yaml(demand: Demand) -> dict[str, Any]:
    pin = None if demand.pin_nodes is None else {"node": sorted(demand.pin_nodes)}
    return _present(
        max_latency_ms=_milliseconds(demand.max_ttft_s),
        max_token_ms=_milliseconds(demand.max_token_s),
        min_tokens_per_s=demand.min_tokens_per_s,
        power_budget_watts=demand.power_budget_w,
        max_price_per_hour=demand.max_price_per_hour,
        preferred_hardware=sorted(demand.preferred),
        banned_hardware=sorted(demand.banned),
        spread=demand.spread,
        pin=pin,
    )


def _milliseconds(seconds: float | None) -> float | None:
    """Rounded to what a person writes, so that reading it gives the same seconds again."""
    return None if seconds is None else float(f"{seconds * 1000:.12g}")
