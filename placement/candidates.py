"""Enumerates, per model, every configuration that passes all hard rules, and keeps a ledger of those that did not.

A small CSP per pool and engine: variables dtype, tp, pp, shares; each rule that says no is written down with its figures.
Knows nothing of other models: what they compete for is `rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from .catalog import engines_for
from .constraint import Candidate, Option, Pool
from .demand import Demand
from .devices import Dtype
from .layout import Layout, stored_dtype
from .modelspec import ModelFacts
from .plan import Rejection
from .policy import Policy
from .pyconstraint import BacktrackingSolver, Constraint, CspProblem
from .roofline import Hop, predict
from .rules import ENGINE_RULES, LAYOUT_RULES
from .score import replica_value

VARIABLES = ("dtype", "tp", "pp", "shares")

_AUTO: tuple[Dtype, ...] = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a model can be: allowed configurations, and the nearest miss of each rule per class and engine."""

    candidates: tuple[Candidate, ...]
    rejections: tuple[Rejection, ...]


class _Rules(Constraint):
    """All layout rules as one constraint of the library; writes what it refuses into a ledger."""

    def __init__(self, option: Option, hop: Hop, policy: Policy) -> None:
        self.option = option
        self.hop = hop
        self.policy = policy
        self.admitted: list[Candidate] = []
        self.refused: list[Rejection] = []

    def __call__(
        self,
        variables: Sequence[str],
        domains: dict[str, Any],
        assignments: dict[str, Any],
        forwardcheck: bool = False,
    ) -> bool:
        """True while some variable is open, then whether every rule passes."""
        if len(assignments) < len(VARIABLES):
            return True
        layout = Layout(**{name: assignments[name] for name in VARIABLES})
        verdict = self._judge(layout)
        if isinstance(verdict, Rejection):
            self.refused.append(verdict)
            return False
        self.admitted.append(verdict)
        return True

    def _judge(self, layout: Layout) -> Candidate | Rejection:
        option = replace(self.option, layout=layout)
        rejection = next((r for rule in LAYOUT_RULES[:_STRUCTURAL] if (r := rule(option))), None)
        if rejection is not None:
            return rejection
        predicted = predict(
            option.demand,
            option.facts,
            option.pool.device_class,
            option.engine,
            layout,
            device_shares=option.pool.shares,
            hop=self.hop,
            build_s=build_s(option, layout),
        )
        option = replace(option, predicted=predicted)
        rejection = next((r for rule in LAYOUT_RULES[_STRUCTURAL:] if (r := rule(option))), None)
        if rejection is not None:
            return rejection
        value = replica_value(
            option.demand, option.facts, self.policy, predicted, option.pool.device_class.name
        )
        return Candidate(option=option, layout=layout, predicted=predicted, value=value)


_STRUCTURAL = 3
"""That many layout rules need no prediction: without them the prediction may not be defined."""


def build_s(option: Option, layout: Layout) -> float:
    """Time to compile before the load: 0 on declared devices and where an artifact lies ready."""
    ready = any(
        a.model == option.demand.id
        and a.device_class == option.pool.device_class.name
        and a.tp == layout.tp
        for a in option.pool.artifacts
    )
    return 0.0 if ready else option.engine.build_s


def enumerate_options(
    demand: Demand, facts: ModelFacts | None, pools: tuple[Pool, ...], policy: Policy, hop: Hop
) -> Options:
    """Every allowed configuration of one model, and why the others are not."""
    if facts is None:
        return Options(candidates=(), rejections=(_unknown(demand),))
    if not pools:
        return Options(candidates=(), rejections=(_nothing(demand),))
    admitted: list[Candidate] = []
    refused: list[Rejection] = []
    for pool in pools:
        if demand.id in pool.models:
            _enumerate(demand, facts, pool, policy, hop, admitted, refused)
    return Options(candidates=tuple(admitted), rejections=nearest_misses(refused))


def _enumerate(
    demand: Demand,
    facts: ModelFacts,
    pool: Pool,
    policy: Policy,
    hop: Hop,
    admitted: list[Candidate],
    refused: list[Rejection],
) -> None:
    engines = engines_for(pool.device_class, emulated=pool.emulated)
    if not engines:
        refused.append(_undriven(demand, pool))
    for engine in engines:
        option = Option(demand=demand, facts=facts, pool=pool, engine=engine)
        rejection = next((r for rule in ENGINE_RULES if (r := rule(option))), None)
        if rejection is not None:
            refused.append(rejection)
            continue
        rules = _Rules(option, hop, policy)
        _solve(option, rules)
        admitted.extend(sorted(rules.admitted, key=lambda c: (c.layout.units, c.layout.pp)))
        refused.extend(rules.refused)


def _solve(option: Option, rules: _Rules) -> None:
    csp = CspProblem(BacktrackingSolver(forwardcheck=False))
    domains = {
        "dtype": _dtypes(option),
        "tp": option.engine.tp,
        "pp": tuple(range(1, option.engine.pp + 1)),
        "shares": _share_counts(option.pool.shares),
    }
    for name in VARIABLES:
        csp.addVariable(name, list(domains[name]))
    csp.addConstraint(rules, list(VARIABLES))
    csp.getSolutions()


def _dtypes(option: Option) -> tuple[Dtype, ...]:
    if option.demand.dtype is not None:
        return (option.demand.dtype,)
    if option.engine.stored_weights and option.facts.weights_bytes:
        return (stored_dtype(option.facts),)
    computes = {dtype for dtype, _ in option.pool.device_class.flops} & set(option.engine.dtypes)
    return cast("tuple[Dtype, ...]", tuple(d for d in _AUTO if d in computes)[:1] or _AUTO[:1])


def _share_counts(shares: int) -> tuple[int, ...]:
    """Powers of two, and the whole device."""
    powers = [2**k for k in range(shares.bit_length()) if 2**k <= shares]
    return tuple(sorted({*powers, shares}))


def nearest_misses(refused: Sequence[Rejection]) -> tuple[Rejection, ...]:
    """Per class, node, engine and rule the rejection that missed by least."""
    best: dict[tuple[str, str, str, str, str], Rejection] = {}
    for rejection in refused:
        key = (
            rejection.model,
            rejection.device_class,
            rejection.node,
            rejection.engine,
            rejection.constraint,
        )
        known = best.get(key)
        if known is None or rejection.shortage < known.shortage:
            best[key] = rejection
    return tuple(best.values())


def _unknown(demand: Demand) -> Rejection:
    return Rejection(
        model=demand.id,
        constraint="model_missing",
        reason=f"nothing is known of {demand.model.source}: no node has read its header",
        resolvable=True,
        hint=f"give models.{demand.id}.facts in the spec, or bring the weights to a node",
    )


def _nothing(demand: Demand) -> Rejection:
    return Rejection(
        model=demand.id,
        constraint="inventory",
        reason="there is no healthy device",
        resolvable=True,
        hint="see `shardyard devices`",
    )


def _undriven(demand: Demand, pool: Pool) -> Rejection:
    return Rejection(
        model=demand.id,
        constraint="backend",
        device_class=pool.device_class.name,
        reason=f"no known engine drives {pool.device_class.name}",
    )
