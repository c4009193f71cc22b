"""A compiled engine runs what was compiled: buckets of batch and length, dtypes, and whether more may be built."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.labs import LLAMA_8B, demand

from orchestrator.inventory_dump import dump_inventory
from orchestrator.inventory_file import parse_inventory
from orchestrator.spec import dump_app, parse_app
from placement.artifacts import best_artifact, bucket_of, compiled_dtypes
from placement.catalog import catalog, engines
from placement.constraint import Block, Option, Pool
from placement.constraints import artifact, bucket
from placement.errors import SpecError
from placement.ids import DeviceId, ModelId, NodeId
from placement.inventory import Artifact
from placement.layout import Layout
from placement.plan import Rejection

RNGD = "FURIOSA_RNGD"
SMALL = Artifact(model="m", device_class=RNGD, tp=1, batch=4, length=2048, dtype="fp8")
LARGE = replace(SMALL, batch=16)
LONG = replace(SMALL, length=8192)
ANY = Artifact(model="m", device_class=RNGD, tp=1)
FP8 = Layout(dtype="fp8")


def option(
    *held: Artifact, layout: Layout = FP8, engine: str = "furiosa", **asked: object
) -> Option:
    kind = catalog()[RNGD]
    block = Block(node=NodeId("a"), rack="", island=0, devices=(DeviceId("a/0"),))
    changes = {}
    if "compiled" in Pool.__dataclass_fields__:
        changes["compiled"] = {ModelId("m"): held} if held else {}
    pool = Pool(
        name=RNGD,
        device_class=kind,
        memory_bytes=kind.memory_bytes,
        shares=1,
        emulated=False,
        engines=None,
        artifacts=frozenset(held),
        models=frozenset({ModelId("m")}),
        blocks=(block,),
        **changes,
    )
    wanted = demand("m", LLAMA_8B, **{"context": 1024, "concurrency": 4, **asked})
    return Option(demand=wanted, facts=LLAMA_8B, pool=pool, engine=engines()[engine], layout=layout)


def check_option(asked: Option) -> Rejection | None:
    return artifact.check_option(asked) or bucket.check_option(asked)


def refused(*held: Artifact, **asked: object) -> Rejection:
    rejection = check_option(option(*held, **asked))
    assert rejection is not None
    assert rejection.constraint == ("bucket" if rejection.shortage else "artifact")
    assert rejection.resolvable
    return rejection


def test_what_fits_a_bucket_passes() -> None:
    assert check_option(option(SMALL)) is None
    assert check_option(option(SMALL, LARGE, concurrency=16)) is None
    assert check_option(option(ANY, concurrency=64, context=8192)) is None


def test_more_sequences_than_compiled_are_refused_with_the_nearest_bucket() -> None:
    rejection = refused(SMALL, LARGE, concurrency=20)
    assert rejection.reason == "20 sequences at once, the largest compiled batch is 16"
    assert rejection.shortage == 4
    assert "models.m.concurrency to 16" in rejection.hint


def test_a_longer_context_than_compiled_is_refused_with_the_nearest_bucket() -> None:
    rejection = refused(SMALL, LONG, context=8200)
    assert rejection.reason == "context 8200, the longest compiled length is 8192 tokens"
    assert rejection.shortage == 8
    assert "models.m.context to 8192" in rejection.hint


def test_a_bucket_must_hold_both_at_once() -> None:
    assert (
        "longest compiled length is 2048"
        in refused(LARGE, LONG, concurrency=8, context=4096).reason
    )


def test_other_tp_sizes_and_dtypes_than_compiled_are_refused() -> None:
    assert (
        "compiled for tp 1 fp8 there, not for tp 2 fp8"
        in refused(SMALL, layout=Layout(dtype="fp8", tp=2)).reason
    )
    assert "not for tp 1 bf16" in refused(SMALL, layout=Layout(dtype="bf16")).reason
    assert check_option(option(ANY, layout=Layout(dtype="bf16"))) is None


def test_where_nothing_is_compiled_it_is_built_unless_that_is_forbidden() -> None:
    assert check_option(option()) is None
    assert "building is never allowed" in refused(build="never").reason
    assert check_option(option(SMALL, build="never")) is None
    other = replace(SMALL, model="other")
    assert "building is never allowed" in refused(other, build="never").reason


def test_an_engine_that_compiles_nothing_needs_no_artifact() -> None:
    assert check_option(option(SMALL, engine="vllm", concurrency=99, build="never")) is None


def test_the_smallest_bucket_that_holds_the_demand_runs_whole() -> None:
    held = (LARGE, SMALL, ANY)
    for concurrency, size in ((1, 4), (4, 4), (5, 16), (17, None)):
        asked = demand("m", LLAMA_8B, context=1024, concurrency=concurrency)
        assert bucket_of(held, asked, RNGD, FP8) == size
    assert best_artifact((SMALL,), demand("m", concurrency=5), RNGD, FP8) is None
    assert bucket_of((SMALL,), demand("m", concurrency=5), RNGD, FP8) is None


def test_dtypes_that_were_compiled_are_known() -> None:
    held = (SMALL, replace(SMALL, dtype="int8"), replace(SMALL, dtype="int4", model="x"), ANY)
    assert compiled_dtypes(held, demand("m"), RNGD) == ("fp8", "int8")


FILE = """\
nodes:
  npu-1:
    devices: [{class: FURIOSA_RNGD, count: 2}]
    artifacts:
      - {model: m, class: FURIOSA_RNGD, tp: 1, batch: 4, length: 2048, dtype: fp8}
      - {model: m, class: FURIOSA_RNGD, tp: 1}
"""


def test_buckets_are_read_and_written_back() -> None:
    inventory = parse_inventory(FILE, "npu.yaml")
    assert inventory.nodes[0].artifacts == (SMALL, ANY)
    assert parse_inventory(dump_inventory(inventory), "again") == inventory


@pytest.mark.parametrize("wrong", ["batch: -4", "batch: 0.5", "batch: 99999", "batch: many"])
def test_a_bucket_that_cannot_be_is_refused_with_its_line(wrong: str) -> None:
    with pytest.raises(SpecError, match=r"npu.yaml:5: nodes.npu-1.artifacts\[0\].batch"):
        parse_inventory(FILE.replace("batch: 4", wrong), "npu.yaml")


def test_whether_to_build_is_a_key_of_a_model() -> None:
    text = "models: {m: {source: 'file:///m', artifacts: {build: never}}}"
    app = parse_app(text, "app.yaml")
    assert app.demands[0].build == "never"
    assert parse_app(dump_app(app), "again") == app
    with pytest.raises(SpecError, match="'allowed' or 'never'"):
        parse_app(text.replace("never", "sometimes"), "app.yaml")
