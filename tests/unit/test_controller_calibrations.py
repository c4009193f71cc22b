"""What a replica was measured to do when it had loaded is kept, used by the next plan, and not measured twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from support.control_plane import FACTS, World, a_plan, a_report, a_slot, an_app, an_entry

from actors.calibrate import Measured
from actors.slot_calibration import calibration
from orchestrator.calibrations import FOLDER, CalibrationFolder
from orchestrator.events import (
    CalibrationsRestored,
    NodeReported,
    ReplicaReported,
    Solved,
    SpecApplied,
)
from orchestrator.reconcile import wanted_slots
from orchestrator.state import State, apply, inventory
from placement.calibration import Calibration
from placement.solve import solve

MEASURED = Calibration(
    device_class="CPU_AVX512",
    engine="openvino",
    model="tiny",
    facts=FACTS,
    dtype="int4",
    shares=1,
    device_shares=4,
    prompt_tokens=128,
    context=40,
    sequences=4,
    prefill_tokens_per_s=77.0,
    token_s_fixed=0.03,
    token_s_per_sequence=0.002,
    uncertainty=0.2,
    source="measured when tiny/r0 had loaded",
    measured="2026-11-21",
)


def a_state() -> State:
    """One planned slot on a node that is there."""
    state = apply(State(), NodeReported(report=a_report("n1"), at=0.0))
    state = apply(state, SpecApplied(app=an_app(), yaml="", revision=1))
    plan = a_plan(a_slot("tiny/r0", "n1/cpu0"))
    return apply(state, Solved(outcome=plan, revision=1, generation=state.generation))


def reported(found: Calibration | None) -> ReplicaReported:
    return ReplicaReported(entry=replace(an_entry("tiny/r0"), calibration=found), at=1.0)


def test_a_measurement_enters_the_inventory_once_and_changes_no_generation() -> None:
    before = a_state()
    after = apply(before, reported(MEASURED))
    again = apply(after, reported(replace(MEASURED, prefill_tokens_per_s=99.0)))
    assert inventory(after).calibrations == (MEASURED,)
    assert again.calibrations == after.calibrations
    assert after.generation == before.generation


def test_a_slot_is_measured_until_it_was() -> None:
    state = a_state()
    first, _ = wanted_slots(state)["tiny/r0"]
    assert first.calibrate
    then, _ = wanted_slots(apply(state, reported(MEASURED)))["tiny/r0"]
    assert not then.calibrate
    assert first.fingerprint == then.fingerprint


def test_what_was_measured_before_a_restart_counts() -> None:
    state = apply(a_state(), CalibrationsRestored(calibrations=(MEASURED,)))
    assert not wanted_slots(state)["tiny/r0"][0].calibrate


async def test_the_next_plan_uses_what_was_seen() -> None:
    world = World("n1")
    await world.settle()
    await world.apply(replicas=1)
    plain = world.controller.state.plan
    assert plain is not None
    slot = plain.slots[0]
    seen = replace(
        MEASURED,
        dtype=slot.dtype,
        shares=slot.stages[0].shares,
        token_s_fixed=10 * slot.predicted.token_s_fixed,
        context=1024,
    )
    await world.controller.register(replace(an_entry(slot.id), calibration=seen))
    problem = world.controller._problem(an_app(replicas=1))
    outcome = solve(replace(problem, current=None))
    assert outcome.slots[0].predicted.token_s > 2 * slot.predicted.token_s


def test_measurements_are_kept_in_the_state_folder(tmp_path: Path) -> None:
    folder = CalibrationFolder(tmp_path / FOLDER)
    assert folder.load() == ()
    folder.keep(MEASURED)
    assert CalibrationFolder(tmp_path / FOLDER).load() == (MEASURED,)


def test_a_folder_with_a_broken_file_stops_nobody(tmp_path: Path) -> None:
    folder = CalibrationFolder(tmp_path)
    (tmp_path / "x.yaml").write_text("calibrations: [1")
    assert folder.load() == ()
    (tmp_path / "file").write_text("")
    CalibrationFolder(tmp_path / "file" / "x").keep(MEASURED)


def test_a_measurement_of_a_replica_says_what_it_is_of() -> None:
    spec, _ = wanted_slots(a_state())["tiny/r0"]
    measured = Measured(
        prompt_tokens=128,
        prefill_tokens_per_s=77.0004,
        token_s_fixed=0.03,
        token_s_per_sequence=0.002,
        steps=((1, 0.032), (4, 0.038)),
        uncertainty=0.2,
        context=40,
        rounds=1,
    )
    found = calibration(spec, FACTS, measured, "2026-11-21")
    assert found is not None
    assert replace(found, shares=1, device_shares=4) == MEASURED
    assert calibration(replace(spec, dtype=None), FACTS, measured, "2026-11-21") is None
