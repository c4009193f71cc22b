"""The whole cost model: single options and columns agree, whatever is known beyond data sheets."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from support.labs import LLAMA_8B, LLAMA_70B, demand

from placement.calibration import Calibration
from placement.catalog import catalog, engines
from placement.demand import Rate
from placement.devices import DeviceClass, Endpoint, Kind
from placement.inventory import Artifact
from placement.layout import Layout
from placement.plan import Predicted
from placement.prediction import Evidence, adjusted, build_s, predicted
from placement.roofline import Hop, predict

RNGD, FURIOSA = catalog()["FURIOSA_RNGD"], engines()["furiosa"]
H100, VLLM = catalog()["NVIDIA_H100_80G"], engines()["vllm"]
API = DeviceClass(
    name="API",
    vendor="unknown",
    kind=Kind.REMOTE,
    memory_bytes=0,
    bandwidth_bytes_per_s=0.0,
    flops=(("bf16", 1e12),),
    power_w=0.0,
    endpoint=Endpoint(
        url="openai+https://x/v1", tokens_per_s=50, ttft_s=0.4, price_per_million_tokens=2
    ),
)
MEASURED = Calibration(
    device_class=H100.name,
    engine="vllm",
    model="m",
    facts=LLAMA_8B,
    dtype="bf16",
    prompt_tokens=512,
    context=600,
    sequences=8,
    prefill_tokens_per_s=20_000.0,
    token_s_fixed=0.02,
    token_s_per_sequence=0.001,
    uncertainty=0.07,
)
BUCKET = Artifact(model="m", device_class=RNGD.name, tp=1, batch=16)
RATE = Rate(requests_per_s=1, prompt_tokens=512, output_tokens=100)
ASKED = [
    (demand("m", LLAMA_8B, concurrency=4, context=1024), LLAMA_8B),
    (demand("n", LLAMA_70B, concurrency=32, context=4096, rate=RATE), LLAMA_70B),
    (demand("o", LLAMA_8B, concurrency=1, context=512, arithmetic="exact"), LLAMA_8B),
]
LAYOUTS = [Layout(dtype="bf16"), Layout(dtype="bf16", tp=2), Layout(dtype="fp8", tp=4, pp=2)]
CASES = {
    "nothing known": (H100, VLLM, Evidence()),
    "calibrated": (H100, VLLM, Evidence(calibrations=[MEASURED])),
    "compiled": (RNGD, FURIOSA, Evidence(artifacts=[BUCKET])),
    "remote": (API, engines()["remote"], Evidence(calibrations=[MEASURED])),
}


def alone(case: str, which: int, layout: Layout) -> Predicted:
    device_class, engine, evidence = CASES[case]
    asked, facts = ASKED[which]
    return predicted(
        asked, facts, device_class, engine, layout, device_shares=1, hop=Hop(), evidence=evidence
    )


@pytest.mark.parametrize("case", CASES)
def test_columns_agree_with_single_options(case: str) -> None:
    device_class, engine, evidence = CASES[case]
    plain = {}
    if device_class.endpoint is None:
        each = [
            [
                predict(
                    asked, facts, device_class, engine, layout, device_shares=1, hop=Hop(),
                    build_s=build_s(asked, device_class, engine, layout, evidence.artifacts),
                )
                for layout in LAYOUTS
            ]
            for asked, facts in ASKED
        ]  # fmt: skip
        plain = {
            f.name: np.array([[getattr(p, f.name) for p in row] for row in each], dtype=np.float64)
            for f in fields(Predicted)
        }
    found = adjusted(plain, ASKED, LAYOUTS, device_class, engine, evidence)
    for name, column in found.items():
        whole = np.broadcast_to(np.asarray(column, dtype=np.float64), (len(ASKED), len(LAYOUTS)))
        for m in range(len(ASKED)):
            for k, layout in enumerate(LAYOUTS):
                assert whole[m, k] == pytest.approx(getattr(alone(case, m, layout), name))


def test_a_compiled_engine_runs_whole_buckets_and_needs_no_build() -> None:
    asked, facts = ASKED[0]
    full = replace(asked, concurrency=16)
    one = Layout(dtype="bf16")
    whole = predicted(
        full, facts, RNGD, FURIOSA, one, device_shares=1, hop=Hop(), evidence=CASES["compiled"][2]
    )
    part = alone("compiled", 0, one)
    bare = predicted(
        asked, facts, RNGD, FURIOSA, one, device_shares=1, hop=Hop(), evidence=Evidence()
    )
    assert part.token_s > bare.token_s
    assert part.token_s == pytest.approx(bare.token_s_fixed + 16 * bare.token_s_per_sequence)
    assert part.tokens_per_s == pytest.approx(4 / part.token_s)
    assert whole.tokens_per_s > 3 * part.tokens_per_s
    assert bare.load_s - part.load_s == FURIOSA.build_s


def test_without_anything_known_it_is_the_roofline() -> None:
    asked, facts = ASKED[1]
    layout = LAYOUTS[1]
    plain = predict(asked, facts, H100, VLLM, layout, device_shares=1, hop=Hop())
    assert alone("nothing known", 1, layout) == plain
    kept = {"token_s": np.array([[1.0]])}
    assert adjusted(kept, ASKED[:1], LAYOUTS[:1], H100, VLLM, Evidence()) is kept
