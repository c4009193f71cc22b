"""The pipelines of a model over all classes that could hold a part of it: how depth, flow and latency trade.

For people who ask why a model is cut as it is. Samples the cost model per class into the figures that `pipeline` works with;
a seat is a tensor-parallel group of one class. Decides no placement: a front is what one copy could do if it were alone, with
as many sequences as its caches hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from .catalog import EngineFacts, engines_for
from .constraint import Option, Pool
from .decode import Curve, Profile, Wire, Workload
from .demand import Demand, Rate
from .devices import Dtype
from .front_point import FrontPoint
from .ids import ModelId
from .layout import Layout, kv_bytes_per_token, weights_bytes
from .modelspec import ModelFacts
from .pipeline import Chain, Goal, stage_front
from .plan import Infeasible, Plan, Predicted, Slot
from .policy import Policy
from .pools import collapse, node_rejections
from .prediction import Evidence, predicted
from .problem import Problem, facts_of
from .roofline import ACTIVATION_BYTES, Hop, slowest_hop
from .rules import ENGINE_RULES
from .staged import NodeClass

Fronts = dict[ModelId, tuple[FrontPoint, ...]]

MOST_SEATS = 12
"""Of all classes together, shared out evenly: a front says how depth pays, not how much there is."""

MOST_MODELS = 4

MOST_POLLS = 1500
"""Steps of the search for one model; a front that is cut short is still one of layouts that hold."""

MOST_SEQUENCES = 256
"""In a batch, when a stage shows its flow."""

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_PROMPTS = (16, 128, 512, 2048)
_ANSWER = 240
_RESERVED = 1.13
"""Mean tokens that a request reserves over those of a mean request: long answers stay longest."""

_AUTO: tuple[Dtype, ...] = ("bf16", "fp16", "fp32")


def fronts(problem: Problem, outcome: Plan | Infeasible, about: ModelId | None = None) -> Fronts:
    """The front of each model that runs in stages, or that no single device can hold: of the first few, or of `about` alone."""
    app, inventory = problem.app, problem.inventory
    slots = outcome.slots if isinstance(outcome, Plan) else ()
    pools = collapse(app.demands, inventory, node_rejections(app.demands, inventory))
    hop, found = slowest_hop(inventory), Fronts()
    for demand in app.demands:
        facts = facts_of(demand, inventory)
        if facts is None or about not in (None, demand.id) or len(found) == MOST_MODELS:
            continue
        staged = [s for s in slots if s.model == demand.id and s.pp > 1]
        if staged or not any(s.model == demand.id for s in slots):
            space = _Space(problem, demand, facts, hop, staged[0] if staged else None)
            points = space.front(pools)
            if points:
                found[demand.id] = points
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seats:
    """Groups of one class that could hold layers."""

    pool: Pool
    engine: EngineFacts
    layout: Layout
    count: int


class _Space:
    """The classes that one model could be spread over, and what they do with it."""

    def __init__(
        self, problem: Problem, demand: Demand, facts: ModelFacts, hop: Hop, slot: Slot | None
    ) -> None:
        self._calibrations = problem.inventory.calibrations
        self._extra = problem.inventory.engines
        self._policy = problem.app.policy
        self._demand, self._facts, self._hop, self._slot = demand, facts, hop, slot
        self._prompt, self._answer = _lengths(demand)

    def front(self, pools: tuple[Pool, ...]) -> tuple[FrontPoint, ...]:
        """The front; empty where a single device could hold the model and it does not run in stages."""
        seats = [s for pool in pools for s in self._seats(pool)]
        held = [(s, fits) for s in seats if (fits := self._kv_tokens(s))]
        whole = any(len(fits) == self._facts.layers for _, fits in held)
        if not held or (whole and self._slot is None):
            return ()
        return stage_front(self._chain(held), _goal(self._policy), _counted(MOST_POLLS))

    def _seats(self, pool: Pool) -> Iterator[_Seats]:
        """The first engine that runs pipelines there."""
        if self._demand.id not in pool.models or pool.shares > 1 or pool.device_class.endpoint:
            return
        for engine in engines_for(pool.device_class, emulated=pool.emulated, extra=self._extra):
            option = Option(demand=self._demand, facts=self._facts, pool=pool, engine=engine)
            dtype = self._dtype(option)
            if max(engine.pp, engine.chain) < 2 or dtype is None:
                continue
            if any(rule(option) for rule in ENGINE_RULES):
                continue
            tp = self._slot.tp if self._slot and self._slot.tp in engine.tp else 1
            count = sum(len(block.devices) // tp for block in pool.blocks)
            if count:
                layout = Layout(dtype=dtype, tp=tp)
                yield _Seats(pool=pool, engine=engine, layout=layout, count=count)
                return

    def _dtype(self, option: Option) -> Dtype | None:
        asked = self._slot.dtype if self._slot else self._demand.dtype
        able = set(option.computed) & set(option.settled or option.computed)
        return next((d for d in ((asked,) if asked else _AUTO) if d in able), None)

    def _kv_tokens(self, seats: _Seats) -> tuple[float, ...]:
        """Tokens of KV cache beside 1, 2, ... layers, as long as one request has room."""
        facts, tp = self._facts, seats.layout.tp
        there = tp * (seats.pool.memory_bytes - seats.engine.overhead_bytes)
        stored = seats.engine.stored_weights
        layer = weights_bytes(facts, seats.layout.dtype, stored=stored) / facts.layers
        copies = max(1.0, tp / max(facts.kv_heads, 1))
        token = copies * kv_bytes_per_token(facts, self._demand.arithmetic) / facts.layers
        found: list[float] = []
        for held in range(1, facts.layers + 1):
            tokens = (there - held * layer) / (held * token)
            if tokens < self._prompt + self._answer:
                break
            found.append(tokens)
        return tuple(found)

    def _chain(self, held: list[tuple[_Seats, tuple[float, ...]]]) -> Chain:
        each = max(1, MOST_SEATS // len(held))
        profiles = tuple(
            Profile(kv_tokens=fits, decode=self._decode(seats), prompt=self._prompts(seats))
            for seats, fits in held
        )
        size = range(len(held) + 1)
        return Chain(
            layers=self._facts.layers,
            classes=tuple(
                NodeClass(
                    name=seats.pool.name,
                    count=min(seats.count, each),
                    flow=self._flow(profile),
                )
                for (seats, _), profile in zip(held, profiles, strict=True)
            ),
            profiles=profiles,
            wire=Wire(
                hop_s=tuple(tuple(self._hop.latency_s for _ in size) for _ in size),
                bytes_per_s=tuple(tuple(self._hop.bytes_per_s for _ in size) for _ in size),
                activation_bytes=self._facts.hidden * ACTIVATION_BYTES,
            ),
            workload=Workload(
                prompt_tokens=self._prompt,
                output_tokens=self._answer,
                resident_tokens=self._resident(),
            ),
        )

    def _resident(self) -> float:
        return _RESERVED * (self._prompt + self._answer)

    def _flow(self, profile: Profile) -> tuple[float, ...]:
        """Tokens/s of a seat that decodes for as many sequences as its cache holds."""
        found: list[float] = []
        for layers, tokens in enumerate(profile.kv_tokens, 1):
            batch = min(MOST_SEQUENCES, max(1.0, tokens / self._resident()))
            found.append(batch / (layers * profile.decode.at(batch)))
        return tuple(found)

    def _decode(self, seats: _Seats) -> Curve:
        times = [
            self._predicted(seats, n, self._prompt).token_s / self._facts.layers for n in _BATCHES
        ]
        return Curve(tokens=tuple(map(float, _BATCHES)), seconds=tuple(times))

    def _prompts(self, seats: _Seats) -> Curve:
        times = [
            n / self._predicted(seats, 1, n).prefill_tokens_per_s / self._facts.layers
            for n in _PROMPTS
        ]
        return Curve(tokens=tuple(map(float, _PROMPTS)), seconds=tuple(times))

    def _predicted(self, seats: _Seats, sequences: int, prompt: int) -> Predicted:
        rate = Rate(requests_per_s=1.0, prompt_tokens=prompt, output_tokens=self._answer)
        demand = replace(
            self._demand, concurrency=sequences, context=prompt + self._answer, rate=rate
        )
        return predicted(
            demand,
            self._facts,
            seats.pool.device_class,
            seats.engine,
            seats.layout,
            device_shares=1,
            hop=self._hop,
            evidence=Evidence(calibrations=self._calibrations),
        )


def _lengths(demand: Demand) -> tuple[int, int]:
    """Tokens of a prompt and of an answer."""
    if demand.rate is not None:
        return demand.rate.prompt_tokens, max(1, demand.rate.output_tokens)
    prompt = max(1, min(512, demand.context // 2))
    return prompt, max(1, min(_ANSWER, demand.context - prompt))


def _goal(policy: Policy) -> Goal:
    return "latency" if policy.latency > policy.throughput else "throughput"


def _counted(polls: int) -> Callable[[], bool]:
    """Fires after so many questions: no clock decides what is found."""
    left = iter(range(polls))
    return lambda: next(left, None) is None
