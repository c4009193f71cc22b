"""The controller: observes, folds events into the state, reconciles, and carries the actions out through ports.

One task runs the loop; the control API and the replicas call the other methods on the same event loop, so the state
changes in one thread only. Knows no Ray, no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

import structlog

from actors.agent_token import is_agent
from actors.report import NodeReport, Renewal
from placement.catalog import classes_of
from placement.demand import App
from placement.plan import Infeasible, Plan
from placement.problem import Problem
from placement.solve import solve

from .actions import Action, Solve, StartAgent, StartSlot, StopSlot
from .errors import ControlError
from .events import (
    AgentStarted,
    CalibrationsRestored,
    Event,
    NodeRenewed,
    NodeReported,
    NodeSilent,
    NodesObserved,
    PlanRestored,
    ReplicaGone,
    ReplicaReported,
    SlotFailed,
    SlotsObserved,
    SlotStarted,
    SlotStopping,
    Solved,
    SpecApplied,
)
from .ports import Calibrations, Clock, Cluster, Deployments, Desired, Journal
from .reconcile import missing_reports, reconcile, start_deadline
from .routing.replicas import ModelEntry, RegistryTable, ReplicaEntry
from .spec import check_device_classes, parse_app
from .state import State, apply, inventory, speed_of

log = structlog.get_logger()

TICK_S = 0.5
NODE_LEASE_S = 4.0
REPLICA_LEASE_S = 5.0
FROZEN_S = 2.0
"""A gap between two ticks longer than this means that we were frozen, not that everybody else fell silent."""

WATCH_S = 20.0
SOURCES_S = 20.0
"""How long `apply` waits for the nodes to say which model sources they have."""


class Controller:
    """Holds the state and drives it towards what was asked for.

    Args:
        code: hash of the packages that every node must run; "" = any.
        agent_secret: from which the agents' tokens are made; "" = every report is believed to be its node's own.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        deployments: Deployments,
        journal: Journal,
        clock: Clock,
        calibrations: Calibrations | None = None,
        code: str = "",
        agent_secret: str = "",
    ) -> None:
        self._cluster = cluster
        self._deployments = deployments
        self._journal = journal
        self._clock = clock
        self._calibrations = calibrations
        self._agent_secret = agent_secret
        self._changed = asyncio.Condition()
        self._asked: App | None = None
        self._created: dict[str, int] = {}
        self._last_tick = clock.now()
        # A version that an earlier controller gave out must not come again with other contents.
        version = int(clock.now() * 1000)
        self.state = State(started_at=clock.now(), code=code, registry_version=version)

    # -- the loop -----------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Takes over what was measured, and the desired state that the journal kept."""
        if self._calibrations is not None:
            kept = self._calibrations.load()
            self._apply(CalibrationsRestored(calibrations=kept))
        desired = self._journal.load()
        if desired is None:
            return
        app = parse_app(desired.yaml, "journal")
        self._apply(SpecApplied(app=app, yaml=desired.yaml, revision=desired.revision))
        if desired.plan is not None:
            self._apply(PlanRestored(plan=desired.plan))

    async def run(self) -> None:
        """Ticks until cancelled; a failing tick is logged and tried again."""
        while True:
            try:
                await self.tick()
            except Exception:
                log.exception("controller.tick_failed")
            await self._wait_for_change(TICK_S)

    async def tick(self) -> None:
        """Observes once, then acts; tells the watchers when the registry changed."""
        before = self.state.registry_version
        self._forgive_freeze()
        self._apply(
            NodesObserved(incarnations=await self._cluster.incarnations(), at=self._clock.now())
        )
        slots = await self._deployments.observe()
        self._apply(SlotsObserved(slots=slots, at=self._clock.now()))
        for name, reason in slots:
            if reason and self.state.slots[name].phase in ("starting", "running"):
                self._apply(SlotFailed(slot=name, reason=reason, at=self._clock.now()))
        self._expire_leases()
        await self._carry_out(reconcile(self.state, self._clock.now()))
        if self.state.registry_version != before:
            await self._notify()

    def _forgive_freeze(self) -> None:
        """After we were frozen nobody could renew a lease: all of them start anew."""
        now, last = self._clock.now(), self._last_tick
        self._last_tick = now
        if now - last < FROZEN_S:
            return
        log.warning("controller.was_frozen", seconds=round(now - last, 1))
        for node in self.state.nodes.values():
            self._apply(NodeReported(report=node.report, at=now))
        for row in self.state.replicas.values():
            self._apply(ReplicaReported(entry=row.entry, at=now))

    def _expire_leases(self) -> None:
        now = self._clock.now()
        for name, node in list(self.state.nodes.items()):
            if now - node.seen_at > NODE_LEASE_S:
                log.warning("node.silent", node=name)
                self._apply(NodeSilent(node=name, at=now))
        for slot, row in list(self.state.replicas.items()):
            if now - row.seen_at > REPLICA_LEASE_S:
                log.warning("replica.silent", slot=slot)
                self._apply(ReplicaGone(slot=slot, incarnation=row.entry.incarnation))

    def _apply(self, event: Event) -> None:
        self.state = apply(self.state, event)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait_for_change(self, timeout_s: float) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), timeout_s)
            except TimeoutError:
                return

    # -- actions ------------------------------------------------------------------------------------------------

    async def _carry_out(self, actions: Sequence[Action]) -> None:
        starts: list[StartSlot] = []
        stops: list[StopSlot] = []
        for action in actions:
            match action:
                case StartAgent():
                    await self._start_agent(action)
                case Solve():
                    await self._solve(action)
                case StartSlot():
                    starts.append(action)
                case StopSlot():
                    stops.append(action)
                case _:
                    assert_never(action)
        await self._stop_slots(stops)
        await self._start_slots(starts)

    async def _start_agent(self, action: StartAgent) -> None:
        log.info("agent.start", incarnation=action.incarnation)
        self._apply(AgentStarted(incarnation=action.incarnation, at=self._clock.now()))
        await self._cluster.start_agent(action.incarnation)

    async def _solve(self, action: Solve) -> None:
        app = self.state.app
        if app is None:
            return
        outcome = await asyncio.to_thread(solve, self._problem(app))
        self._apply(Solved(outcome=outcome, revision=action.revision, generation=action.generation))
        log.info("plan.solved", generation=action.generation, feasible=isinstance(outcome, Plan))
        self._save()

    def _problem(self, app: App) -> Problem:
        return Problem(inventory=inventory(self.state), app=app, current=self.state.plan, seed=0)

    async def _stop_slots(self, stops: list[StopSlot]) -> None:
        if not stops:
            return
        for stop in stops:
            log.info("slot.stop", slot=stop.slot, reason=stop.reason)
            self._apply(SlotStopping(slot=stop.slot, at=self._clock.now()))
        await self._deployments.stop([stop.slot for stop in stops])

    async def _start_slots(self, starts: list[StartSlot]) -> None:
        if not starts:
            return
        now = self._clock.now()
        for start in starts:
            spec = start.spec
            log.info("slot.start", slot=spec.id, nodes=list(spec.nodes), engine=spec.engine)
            self._apply(
                SlotStarted(
                    slot=spec.id,
                    fingerprint=spec.fingerprint,
                    devices=start.devices,
                    nodes=spec.nodes,
                    deadline=start_deadline(spec, now),
                    at=now,
                )
            )
        await self._deployments.start([start.spec for start in starts])

    def _save(self) -> None:
        state = self.state
        self._journal.save(Desired(yaml=state.yaml, revision=state.revision, plan=state.plan))

    # -- what nodes and replicas tell ---------------------------------------------------------------------------

    async def report(self, report: NodeReport, token: str = "") -> tuple[str, ...]:
        """A node's agent tells all that it knows; answered with the model sources it shall look for.

        A report that speaks of other nodes' devices is not taken; `state.refused` says why.

        Raises:
            ControlError: the token is not that node's agent's.
        """
        self._require_agent(report, token)
        before = self.state.generation
        self._apply(NodeReported(report=report, at=self._clock.now()))
        why = self.state.refused.get(report.incarnation)
        if why is not None:
            log.warning("report.refused", node=report.node, reason=why)
        if self.state.generation != before:
            log.info("node.changed", node=report.node, generation=self.state.generation)
            await self._notify()
        return self.wanted_sources()

    async def renew(self, renewal: Renewal, token: str = "") -> tuple[str, ...] | None:
        """A node's agent renews its lease; None = the whole report is needed. Raises as `report`."""
        self._require_agent(renewal, token)
        known = self.state.nodes.get(renewal.node)
        if known is None or known.report.incarnation != renewal.incarnation:
            return None
        self._apply(NodeRenewed(renewal=renewal, at=self._clock.now()))
        return self.wanted_sources()

    def _require_agent(self, said: NodeReport | Renewal, token: str) -> None:
        if not is_agent(self._agent_secret, said.incarnation, token):
            log.warning("report.forged", node=said.node, incarnation=said.incarnation)
            raise ControlError(
                f"this report of {said.node} does not come from the agent of that node",
                hint="only agents that the controller started may report",
            )

    async def register(self, entry: ReplicaEntry) -> None:
        """A replica renews its row of the registry."""
        before, measured = self.state.registry_version, len(self.state.calibrations)
        self._apply(ReplicaReported(entry=entry, at=self._clock.now()))
        if self.state.registry_version != before:
            log.info("replica.changed", slot=entry.slot, state=entry.state, detail=entry.detail)
            await self._notify()
        if self._calibrations is not None:
            for found in self.state.calibrations[measured:]:
                await asyncio.to_thread(self._calibrations.keep, found)

    async def deregister(self, slot: str, incarnation: str) -> None:
        """A replica says goodbye."""
        self._apply(ReplicaGone(slot=slot, incarnation=incarnation))
        log.info("replica.gone", slot=slot)
        await self._notify()

    async def watch(self, version: int) -> RegistryTable:
        """The registry as soon as it differs from `version`, at the latest after WATCH_S."""
        deadline = self._clock.now() + WATCH_S
        while self._clock.now() < deadline and not self._news(version):
            await self._wait_for_change(min(1.0, WATCH_S))
        return self.table()

    def _news(self, version: int) -> bool:
        """A restarted controller is silent until its replicas had time to register: gateways know more than it does."""
        plan = self.state.plan
        planned = {slot.id for slot in plan.slots} if plan is not None else set()
        lease_over = self._clock.now() - self.state.started_at >= REPLICA_LEASE_S
        settled = lease_over or planned <= self.state.replicas.keys()
        return settled and self.state.registry_version != version

    def wanted_sources(self) -> tuple[str, ...]:
        """Every model source and tokenizer of the app, and of the one that `apply` is about to plan."""
        apps = [app for app in (self.state.app, self._asked) if app is not None]
        specs = [demand.model for app in apps for demand in app.demands]
        return tuple(sorted({s for spec in specs for s in (spec.source, spec.tokenizer)}))

    def table(self) -> RegistryTable:
        """The registry that gateways follow."""
        state = self.state
        plan = state.plan
        slots = plan.slots if plan is not None else ()
        emulated = {slot.model for slot in slots if slot.emulated}
        models = tuple(
            ModelEntry(
                id=demand.id,
                created=self._created.setdefault(demand.id, self._clock.unix_s()),
                emulated=demand.id in emulated,
                window=demand.context,
                problem=self._problem_of(demand.id),
            )
            for demand in (state.app.demands if state.app is not None else ())
        )
        rows = tuple(
            replace(state.replicas[slot].entry, speed=speed_of(state, slot))
            for slot in sorted(state.replicas)
        )
        return RegistryTable(version=state.registry_version, models=models, replicas=rows)

    def _problem_of(self, model: str) -> str:
        for slot, failure in sorted(self.state.failures.items()):
            if slot.rpartition("/")[0] == model:
                return f"{slot}: {failure.reason}"
        return ""

    # -- what users ask -----------------------------------------------------------------------------------------

    def age_s(self, at: float) -> float:
        """Seconds since a moment of the state."""
        return self._clock.now() - at

    async def dry_run(self, app: App) -> Plan | Infeasible:
        """Plans an app on the inventory of now, without changing anything.

        Raises:
            SpecError: it names device classes that nobody knows.
        """
        await self._ask_for_sources(app)
        check_device_classes(app, classes_of(inventory(self.state)))
        return await asyncio.to_thread(solve, self._problem(app))

    async def accept(self, app: App, yaml: str) -> Plan | Infeasible:
        """Makes an app the desired state when it is feasible; the loop then carries it out."""
        outcome = await self.dry_run(app)
        if isinstance(outcome, Infeasible):
            return outcome
        revision = self.state.revision + 1
        self._apply(SpecApplied(app=app, yaml=yaml, revision=revision))
        if outcome.generation == self.state.generation:
            self._apply(Solved(outcome=outcome, revision=revision, generation=outcome.generation))
        self._save()
        await self._notify()
        return outcome

    async def _ask_for_sources(self, app: App) -> None:
        """Waits until every reporting node has said whether it has the app's model sources."""
        self._asked = app
        deadline = self._clock.now() + SOURCES_S
        try:
            while self._clock.now() < deadline and not self._nodes_answered():
                await self._wait_for_change(0.2)
        finally:
            self._asked = None

    def _nodes_answered(self) -> bool:
        wanted = set(self.wanted_sources())
        if missing_reports(self.state) or not self.state.nodes:
            return False
        return all(
            wanted <= {m.source for m in node.report.models} for node in self.state.nodes.values()
        )
