"""Builders and fakes for the controller: plans by hand, a cluster, deployments and a journal in memory, a clock to set."""

from __future__ import annotations

from collections.abc import Sequence

from actors.report import NodeReport, Versions
from actors.slot import SlotSpec
from orchestrator.controller import Controller
from orchestrator.ports import Desired
from orchestrator.routing.replicas import ReplicaEntry
from orchestrator.spec import parse_app
from placement.demand import App, Demand
from placement.devices import Device
from placement.ids import DeviceId, ModelId, NodeId, SlotId
from placement.inventory import ModelPresence
from placement.modelspec import ModelFacts, ModelSpec
from placement.plan import Infeasible, Plan, Predicted, Slot, Stage
from placement.units import GIB

SOURCE = "package://tiny"
FACTS = ModelFacts(
    parameters=135e6,
    layers=30,
    hidden=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    ffn=1536,
    vocab=49152,
    window=8192,
    architecture="llama",
    weights_bytes=98_000_000,
)
PREDICTED = Predicted(
    ttft_s=0.1,
    token_s=0.02,
    token_s_fixed=0.01,
    token_s_per_sequence=0.001,
    prefill_tokens_per_s=1000.0,
    tokens_per_s=100.0,
    power_w=20.0,
    price_per_hour=0.1,
    memory_bytes=GIB,
    load_s=2.0,
    uncertainty=0.3,
)
PRESENT = ModelPresence(source=SOURCE, present=True, path="/models/tiny.gguf", facts=FACTS)
VERSIONS = Versions(shardyard="0", code="0", python="3.11")


def a_report(
    node: str, *, incarnation: str = "", devices: int = 1, cores: int = 4, told: bool = True
) -> NodeReport:
    """A node with a CPU of `cores` shares in each of its devices."""
    return NodeReport(
        node=NodeId(node),
        hostname=node,
        versions=VERSIONS,
        incarnation=incarnation or f"ray-{node}",
        cores=cores,
        memory_bytes=16 * GIB,
        devices=tuple(
            Device(
                id=DeviceId(f"{node}/cpu{k}"),
                node=NodeId(node),
                device_class="CPU_AVX512",
                memory_bytes=16 * GIB,
                shares=cores,
            )
            for k in range(devices)
        ),
        engines=frozenset({"openvino"}),
        models=(PRESENT,) if told else (),
    )


def a_slot(slot: str, device: str) -> Slot:
    """A replica on one share of a device."""
    model, node = slot.rpartition("/")[0], device.rpartition("/")[0]
    return Slot(
        id=SlotId(slot),
        model=ModelId(model),
        engine="openvino",
        device_class="CPU_AVX512",
        dtype="int4",
        tp=1,
        pp=1,
        stages=(Stage(layers=(0, 30), node=NodeId(node), devices=(DeviceId(device),)),),
        predicted=PREDICTED,
        kv_bytes=GIB // 2,
    )


def a_plan(*slots: Slot, generation: int = 1) -> Plan:
    """A plan of these slots."""
    return Plan(
        generation=generation,
        policy="balanced",
        seed=0,
        value=1.0,
        bound=1.0,
        proven=True,
        slots=slots,
    )


def an_app(model: str = "tiny", replicas: int = 2) -> App:
    """One small model."""
    spec = ModelSpec(id=ModelId(model), source=SOURCE, tokenizer=SOURCE)
    return App(
        name="app",
        demands=(Demand(model=spec, replicas_min=replicas, replicas_max=replicas),),
    )


def yaml_of(model: str = "tiny", replicas: int = 2) -> str:
    """The spec of `an_app`, as a user writes it."""
    return f"name: app\nmodels:\n  {model}: {{source: '{SOURCE}', replicas: {replicas}}}\n"


def an_entry(slot: str, *, incarnation: str = "i1", state: str = "ready") -> ReplicaEntry:
    """A row of the registry."""
    return ReplicaEntry(
        slot=slot,
        incarnation=incarnation,
        model=slot.rpartition("/")[0],
        engine="openvino",
        device_class="CPU_AVX512",
        node="n1",
        host="127.0.0.1",
        port=9,
        pid=1,
        concurrency=8,
        queue=8,
        window=2048,
        state=state,
        load_ratio=1.0 if state == "ready" else 0.0,
    )


class HandClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def unix_s(self) -> int:
        return 1_700_000_000


class MemoryCluster:
    """Ray's nodes, as the test says."""

    def __init__(self, *incarnations: str) -> None:
        self.living = set(incarnations)
        self.agents: list[str] = []

    async def incarnations(self) -> frozenset[str]:
        return frozenset(self.living)

    async def start_agent(self, incarnation: str) -> None:
        self.agents.append(incarnation)


class MemoryDeployments:
    """Serve's applications, as started and stopped; a reason marks one that failed for good."""

    def __init__(self) -> None:
        self.running: dict[str, SlotSpec] = {}
        self.reasons: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []

    async def start(self, specs: Sequence[SlotSpec]) -> None:
        for spec in specs:
            self.calls.append(("start", spec.id))
            self.running[spec.id] = spec

    async def stop(self, slots: Sequence[str]) -> None:
        for slot in slots:
            self.calls.append(("stop", slot))
            self.running.pop(slot, None)

    async def observe(self) -> tuple[tuple[str, str], ...]:
        return tuple((slot, self.reasons.get(slot, "")) for slot in sorted(self.running))


class MemoryJournal:
    """The journal of a test."""

    def __init__(self, desired: Desired | None = None) -> None:
        self.desired = desired

    def load(self) -> Desired | None:
        return self.desired

    def save(self, desired: Desired) -> None:
        self.desired = desired


class World:
    """A controller and everything around it."""

    def __init__(self, *nodes: str, cores: int = 4, journal: MemoryJournal | None = None) -> None:
        self.cores = cores
        self.clock = HandClock()
        self.cluster = MemoryCluster(*(f"ray-{n}" for n in nodes))
        self.deployments = MemoryDeployments()
        self.journal = journal or MemoryJournal()
        self.controller = Controller(
            cluster=self.cluster,
            deployments=self.deployments,
            journal=self.journal,
            clock=self.clock,
        )
        self.nodes = list(nodes)

    async def settle(self, ticks: int = 4) -> None:
        """Every node reports and every replica renews, then the controller ticks; a few times."""
        for _ in range(ticks):
            for node in self.nodes:
                await self.controller.report(a_report(node, cores=self.cores))
            for slot in self.deployments.running:
                await self.controller.register(an_entry(slot))
            await self.controller.tick()
            self.clock.seconds += 0.5

    async def apply(self, replicas: int = 2) -> Plan | Infeasible:
        text = yaml_of(replicas=replicas)
        return await self.controller.accept(parse_app(text, "test"), text)
