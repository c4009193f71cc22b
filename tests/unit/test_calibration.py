"""Measurements beat class constants: how far each one is trusted, and how a line is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engines import VirtualClock, engine_config
from support.labs import LLAMA_8B, LLAMA_70B, SMOLLM2, demand

from actors.calibrate import fit, measure, step_s
from actors.engine import Pace
from actors.engines.emulated import EmulatedEngine
from actors.errors import EngineError
from orchestrator.calibrations import as_entry, calibration, dump, file_name, load, write
from orchestrator.inventory_dump import dump_inventory
from orchestrator.inventory_file import parse_inventory
from placement.calibration import (
    OTHER_LAYOUT,
    OTHER_MODEL,
    UNCALIBRATED,
    Calibration,
    Point,
    calibrated,
    nearest,
)
from placement.catalog import catalog, engines
from placement.demand import Rate
from placement.errors import SpecError
from placement.layout import Layout
from placement.measured import measured_scales
from placement.plan import Predicted
from placement.roofline import Hop, predict

CPU, OPENVINO = catalog()["CPU_AVX512"], engines()["openvino"]
H100, VLLM = catalog()["NVIDIA_H100_80G"], engines()["vllm"]

MEASURED = Calibration(
    device_class="NVIDIA_H100_80G",
    engine="vllm",
    model="llama8",
    facts=LLAMA_8B,
    dtype="bf16",
    prompt_tokens=512,
    context=600,
    sequences=8,
    prefill_tokens_per_s=20_000.0,
    token_s_fixed=0.011,
    token_s_per_sequence=0.0004,
    uncertainty=0.07,
    source="by hand",
    measured="2026-01-02",
)


def point(**changes: object) -> Point:
    fields = {
        "device_class": "NVIDIA_H100_80G",
        "engine": "vllm",
        "facts": LLAMA_8B,
        "dtype": "bf16",
    }
    return Point(**fields | changes)  # type: ignore[arg-type]


def predicted(facts=LLAMA_8B, *, context: int, prompt: int, concurrency: int = 8) -> Predicted:
    asked = demand(
        "m",
        facts,
        context=context,
        concurrency=concurrency,
        rate=Rate(requests_per_s=1, prompt_tokens=prompt, output_tokens=2 * (context - prompt)),
    )
    return predict(asked, facts, H100, VLLM, Layout(dtype="bf16"), device_shares=1, hop=Hop())


def test_at_the_measured_point_the_measurement_comes_back() -> None:
    by = measured_scales([MEASURED], point(), H100, VLLM)
    decode = calibrated(predicted(context=600, prompt=1), by, sequences=8)
    assert decode.token_s_fixed == pytest.approx(0.011, rel=1e-2)
    assert decode.token_s_per_sequence == pytest.approx(0.0004, rel=1e-2)
    assert decode.tokens_per_s == pytest.approx(8 / decode.token_s)
    assert decode.uncertainty == 0.07
    prefill = calibrated(predicted(context=1024, prompt=512), by, sequences=8)
    assert prefill.prefill_tokens_per_s == pytest.approx(20_000, rel=1e-6)
    rest = prefill.ttft_s - prefill.token_s_fixed - prefill.token_s_per_sequence
    assert rest == pytest.approx(512 / 20_000, rel=1e-6)


def test_another_model_is_corrected_by_the_ratio_and_trusted_less() -> None:
    plain = predicted(LLAMA_70B, context=600, prompt=1)
    by = measured_scales([MEASURED], point(facts=LLAMA_70B), H100, VLLM)
    assert by.fixed == by.per_sequence
    there = predicted(context=600, prompt=1)
    assert by.fixed == pytest.approx((0.011 + 8 * 0.0004) / there.token_s, rel=1e-2)
    after = calibrated(plain, by, sequences=8)
    assert after.token_s == pytest.approx(plain.token_s * by.fixed)
    assert after.uncertainty == min(OTHER_MODEL, H100.uncertainty)
    assert (after.power_w, after.memory_bytes) == (plain.power_w, plain.memory_bytes)


def test_another_layout_of_the_same_model_is_trusted_less_than_the_measured_one() -> None:
    by = measured_scales([MEASURED], point(tp=4), H100, VLLM)
    assert by.uncertainty == min(OTHER_LAYOUT, H100.uncertainty)


def test_how_weights_are_stored_makes_no_other_model() -> None:
    stored = replace(LLAMA_8B, weights_bytes=5_000_000_000, window=4096)
    by = measured_scales([MEASURED], point(facts=stored), H100, VLLM)
    assert by.uncertainty == MEASURED.uncertainty


def test_without_a_fitting_measurement_nothing_is_corrected() -> None:
    for other in (point(engine="torch"), point(device_class="CPU"), point(arithmetic="exact")):
        by = measured_scales([MEASURED], other, H100, VLLM)
        assert by is UNCALIBRATED
    plain = predicted(context=600, prompt=1)
    assert calibrated(plain, UNCALIBRATED, sequences=8) is plain


def test_the_nearest_measurement_counts_and_of_equals_the_latest() -> None:
    small = replace(MEASURED, model="smollm2", facts=SMOLLM2)
    later = replace(MEASURED, measured="2026-03-04", token_s_fixed=0.02)
    known = [small, MEASURED, later, replace(MEASURED, tp=4)]
    assert nearest(known, point()) == later
    assert nearest(known, point(tp=4)) == known[3]
    assert nearest(known, point(facts=LLAMA_70B)) in (later, known[3])
    assert nearest([small], point(facts=LLAMA_70B)) == small
    assert nearest([], point()) is None


@given(
    fixed=st.floats(1e-6, 1.0),
    slope=st.floats(0.0, 1.0),
    rate=st.floats(1.0, 1e6),
    facts=st.sampled_from([LLAMA_8B, LLAMA_70B, SMOLLM2]),
)
def test_a_corrected_prediction_is_always_sane(
    fixed: float, slope: float, rate: float, facts
) -> None:
    found = replace(
        MEASURED, token_s_fixed=fixed, token_s_per_sequence=slope, prefill_tokens_per_s=rate
    )
    by = measured_scales([found], point(facts=facts), H100, VLLM)
    after = calibrated(predicted(facts, context=1000, prompt=100), by, sequences=8)
    assert 0 < after.token_s < 1e6
    assert 0 < after.ttft_s < 1e9
    assert after.tokens_per_s == pytest.approx(8 / after.token_s)
    assert after.token_s_fixed >= 0 <= after.token_s_per_sequence


# -- files ----------------------------------------------------------------------------------------------------------


def test_a_measurement_survives_its_file(tmp_path: Path) -> None:
    place = tmp_path / "new" / file_name(MEASURED)
    write(place, dump([MEASURED]))
    assert load(place) == (MEASURED,)
    assert load(tmp_path / "new") == (MEASURED,)
    assert [p.name for p in place.parent.iterdir()] == [file_name(MEASURED)]


def test_an_inventory_carries_its_measurements() -> None:
    import yaml

    text = yaml.safe_dump(
        {
            "nodes": {"a": {"devices": [{"class": "NVIDIA_H100_80G"}]}},
            "calibrations": [as_entry(MEASURED)],
        }
    )
    inventory = parse_inventory(text, "inventory.yaml")
    assert inventory.calibrations == (MEASURED,)
    assert parse_inventory(dump_inventory(inventory), "again") == inventory


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"engine": "emulated"}, "measure nothing"),
        ({"token_ms_fixed": 0.0, "token_ms_per_sequence": 0.0}, "cannot both be 0"),
        ({"shares": 2}, "2 shares of a device of 1"),
        ({"prefill_tokens_per_s": 0.0}, "greater than 0"),
        ({"token_ms_fixed": float("nan")}, "finite number|greater than"),
        ({"uncertainty": -1.0}, "greater than or equal to 0"),
        ({"dtype": "fp12"}, "fp32"),
        ({"speed": 3}, "unknown key"),
    ],
)
def test_a_measurement_that_cannot_be_is_refused_with_its_line(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    import yaml

    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"calibrations": [as_entry(MEASURED) | change]}))
    with pytest.raises(SpecError, match=rf"c.yaml:[0-9]+: calibrations.*({says})"):
        load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        load(tmp_path / "nothing.yaml")
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match=r"Not a directory|File exists"):
        write(tmp_path / "file" / "c.yaml", "")


def test_the_same_entry_gives_the_same_measurement() -> None:
    from orchestrator.calibrations import Measurement

    assert calibration(Measurement.model_validate(as_entry(MEASURED))) == MEASURED


# -- measuring ------------------------------------------------------------------------------------------------------


def test_a_line_is_fitted_and_never_negative() -> None:
    assert fit({1: 0.012, 2: 0.014, 4: 0.018, 8: 0.026}) == (0.01, 0.002)
    assert fit({3: 0.5}) == (0.5, 0.0)
    fixed, slope = fit({1: 0.02, 2: 0.018, 4: 0.016})
    assert (0.016 < fixed < 0.02) and slope == 0.0
    fixed, slope = fit({1: 0.001, 2: 0.004, 4: 0.016})
    assert fixed == 0.0 and slope > 0


def test_a_step_counts_only_while_all_sequences_decode() -> None:
    early = [(1.0, 1), (2.0, 1), (3.0, 1), (4.0, 1)]
    late = [(2.0, 1), (3.0, 1), (4.0, 1), (5.0, 1)]
    assert step_s([early, late]) == 1.0
    with pytest.raises(EngineError, match="never decoded together"):
        step_s([[(1.0, 1), (2.0, 1)], [(3.0, 1), (4.0, 1)]])


async def test_measuring_finds_the_pace_that_an_engine_keeps() -> None:
    clock = VirtualClock()
    pace = Pace(fixed_s=0.01, per_sequence_s=0.002, prefill_tokens_per_s=1000.0, load_s=1.0)
    engine = EmulatedEngine(clock)
    measured = await measure(engine, engine_config(pace=pace), budget_s=60, clock=clock.now)
    assert measured.token_s_fixed == pytest.approx(0.01, rel=0.05)
    assert measured.token_s_per_sequence == pytest.approx(0.002, rel=0.1)
    assert measured.prefill_tokens_per_s == pytest.approx(1000, rel=0.05)
    assert measured.uncertainty <= 0.1
    assert [batch for batch, _ in measured.steps] == [1, 2, 4, 8]
    assert 60 > clock.time > 30
    assert engine.health()


async def test_an_engine_that_cannot_take_a_batch_is_measured_with_fewer() -> None:
    clock = VirtualClock()
    pace = Pace(fixed_s=0.01, per_sequence_s=0.0, prefill_tokens_per_s=1e5, load_s=0.0)
    config = engine_config(pace=pace, max_sequences=2, window=256)
    measured = await measure(EmulatedEngine(clock), config, budget_s=5, clock=clock.now)
    assert [batch for batch, _ in measured.steps] == [1, 2]
    assert measured.prompt_tokens == 128


async def test_an_engine_that_does_not_load_is_closed_and_named() -> None:
    engine = EmulatedEngine()
    pace = Pace(fixed_s=1.0, per_sequence_s=1.0, prefill_tokens_per_s=1.0, load_s=600.0)
    with pytest.raises(EngineError, match="emulated did not load"):
        await measure(
            engine, engine_config(pace=pace), budget_s=5, clock=lambda: 0.0, load_deadline_s=0.01
        )
    assert engine.health()
