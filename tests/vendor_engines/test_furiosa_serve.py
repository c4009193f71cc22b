"""`furiosa-llm serve` itself, through the server carrier: only the card is a stand-in."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support.engines import engine_request, generated
from support.furiosa_stand_in import REAL, STAND_IN, furiosa_config, furiosa_files, stand_in_engine
from support.npu_artifacts import manifest, write_bundle
from support.vendor_tier import python_of

from actors.engines.furiosa import FuriosaServer
from actors.errors import EngineCrashed, EngineError, LoadFailed
from actors.process_tree import started
from actors.server.endings import Ended, meaning
from actors.server.engine import ServerEngine

CRASH_ID = 63

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furiosa_files(tmp_path_factory.mktemp("furiosa"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(files: Path) -> AsyncIterator[ServerEngine]:
    engine = stand_in_engine()
    await engine.load(furiosa_config(files), lambda _: None)
    yield engine
    await engine.close()


def expected(prompt: tuple[int, ...], most: int) -> tuple[tuple[int, ...], str]:
    """What the stand-in says, computed here."""
    ids = list(prompt)
    while len(ids) - len(prompt) < most:
        figure = zlib.crc32(bytes(ids))
        if figure % 41 == 0:
            return tuple(ids[len(prompt) :]), "stop"
        ids.append(3 + figure % 60)
    return tuple(ids[len(prompt) :]), "length"


async def until(condition: Callable[[], Awaitable[bool]], deadline_s: float = 5.0) -> None:
    end = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.02)


@pytest.mark.asyncio(loop_scope="module")
async def test_it_starts_and_tells_its_limits(engine: ServerEngine, said: Any) -> None:
    assert engine.health() == ""
    assert engine.capabilities.batch_buckets == (4, 8)
    assert engine.capabilities.length_buckets == (2048, 4096)
    assert len(engine.processes()) >= 2
    said(real=REAL, stand_in=STAND_IN, seen=f"ready, {engine.capabilities}")


@pytest.mark.asyncio(loop_scope="module")
async def test_ids_come_back_and_a_text_goes_on_where_it_was_cut(
    engine: ServerEngine, said: Any
) -> None:
    whole, finish = await generated(engine, engine_request(max_tokens=60))
    assert (whole, finish) == expected((11, 12, 13), 60)
    for cut in (1, len(whole) // 2, len(whole) - 1):
        request = engine_request((11, 12, 13, *whole[:cut]), max_tokens=60 - cut)
        assert await generated(engine, request) == (whole[cut:], finish)
    said(
        real=REAL,
        stand_in=STAND_IN,
        seen=f"{len(whole)} ids in and out of /v1/completions, same after 3 cuts",
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_many_at_once_do_not_mix(engine: ServerEngine) -> None:
    prompts = [(n, 20, 30) for n in range(3, 27)]
    results = await asyncio.gather(
        *[generated(engine, engine_request(p, max_tokens=20)) for p in prompts]
    )
    assert results == [expected(p, 20) for p in prompts]


@pytest.mark.asyncio(loop_scope="module")
async def test_ends_of_text_can_be_ignored_and_sampling_is_taken(engine: ServerEngine) -> None:
    ids, finish = await generated(
        engine, engine_request(max_tokens=50, ignore_eos=True, temperature=0.7, seed=5)
    )
    assert finish == "length"
    assert 1 <= len(ids) <= 50


@pytest.mark.asyncio(loop_scope="module")
async def test_a_schema_is_a_field_that_it_takes(engine: ServerEngine) -> None:
    schema = '{"type":"object","properties":{"a":{"type":"integer"}}}'
    _, finish = await generated(engine, engine_request(max_tokens=3, json_schema=schema))
    assert finish in {"length", "stop"}


@pytest.mark.asyncio(loop_scope="module")
async def test_what_it_does_not_know_is_never_sent(engine: ServerEngine) -> None:
    with pytest.raises(EngineError, match="frequency_penalty"):
        await generated(engine, engine_request(max_tokens=3, frequency_penalty=0.5))


@pytest.mark.asyncio(loop_scope="module")
async def test_an_aborted_text_ends_and_frees_its_place(engine: ServerEngine, said: Any) -> None:
    request = replace(engine_request(ignore_eos=True, max_tokens=1000), id="a")
    finish = None
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            finish = chunk.finish
            if finish is None:
                await engine.abort("a")
    assert finish == "abort"
    begun = time.monotonic()
    await until(lambda: _running(engine, 0))
    said(
        real=REAL,
        stand_in=STAND_IN,
        seen=f"aborted; its own /metrics says 0 running {time.monotonic() - begun:.2f} s later",
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_leaves_frees_its_place(engine: ServerEngine) -> None:
    streams = [
        engine.generate(engine_request((n,), ignore_eos=True, max_tokens=1000)) for n in range(3, 7)
    ]
    for stream in streams:
        await anext(stream)
    await until(lambda: _running(engine, 4))
    for stream in streams:
        await stream.aclose()
    await until(lambda: _running(engine, 0))


async def _running(engine: ServerEngine, count: int) -> bool:
    return (await engine.stats()).running == count


@pytest.mark.asyncio(loop_scope="module")
async def test_more_than_its_window_is_an_error_of_its_own(engine: ServerEngine) -> None:
    with pytest.raises(EngineError):
        await generated(engine, engine_request(tuple(3 + n % 50 for n in range(1024))))
    assert (await generated(engine, engine_request(max_tokens=2)))[1] == "length"


async def test_it_ends_when_asked_and_leaves_nothing(files: Path, said: Any) -> None:
    engine = stand_in_engine(grace_s=20.0)
    await engine.load(furiosa_config(files), lambda _: None)
    stream = engine.generate(engine_request(ignore_eos=True, max_tokens=1000))
    await anext(stream)
    processes = engine.processes()
    begun = time.monotonic()
    await engine.close()
    took = time.monotonic() - begun
    await stream.aclose()
    assert [pid for pid in processes if started(pid) is not None] == []
    assert took < 15.0
    said(
        real=REAL,
        stand_in=STAND_IN,
        seen=f"{len(processes)} processes ended by SIGTERM in {took:.1f} s, a stream open",
    )


async def test_when_its_native_engine_dies_it_ends_itself_and_says_so(
    files: Path, said: Any
) -> None:
    engine = stand_in_engine()
    await engine.load(furiosa_config(files), lambda _: None)
    processes = engine.processes()
    with pytest.raises(EngineError):
        await generated(engine, engine_request((CRASH_ID,), max_tokens=5))

    async def dead() -> bool:
        return bool(engine.health())

    await until(dead, 20.0)
    with pytest.raises(EngineCrashed, match="native engine died"):
        await generated(engine, engine_request())
    assert "native engine died" in engine.health()
    await engine.close()
    assert [pid for pid in processes if started(pid) is not None] == []
    said(real=REAL, stand_in=STAND_IN, seen=engine.health())


@pytest.mark.skipif(Path("/dev/rngd").exists(), reason="this machine has cards")
async def test_without_a_card_the_real_command_says_what_is_missing(files: Path, said: Any) -> None:
    python = python_of("furiosa")
    engine = ServerEngine(FuriosaServer(), find=lambda _: python)
    with pytest.raises(LoadFailed, match="driver libraries are not on this node") as failed:
        await engine.load(furiosa_config(files), lambda _: None)
    assert failed.value.hint
    assert engine.processes() == ()
    said(real="all of it, engine included", seen=str(failed.value))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--fxb", "{m}", "--devices", "npu:0:0-1"), "do not form the groups"),
        (("--fxb", "{m}", "--devices", "npu:0:2-5"), "do not form the groups"),
        (("--fxb", "{torn}", "--devices", "npu:0:0-3"), "bundle cannot be used"),
        (("--devices", "npu:0:0-3"), "bundle cannot be used"),
        (("--fxb", "{m}"), "card cannot be opened"),
        (("--fxb", "{m}", "--devices", "npu:0:0-3", "--max-model-len", "8192"), "window is longer"),
    ],
)  # fmt: skip
def test_its_own_complaints_are_understood(
    files: Path, options: tuple[str, ...], reason: str, said: Any
) -> None:
    python = python_of("furiosa")
    torn = files / "torn.fxb"
    torn.write_bytes((files / "m.fxb").read_bytes()[:100])
    places = {"m": str(files / "m.fxb"), "torn": str(torn)}
    command = [str(python.parent / "furiosa-llm"), "serve", str(files / "model"), "--port", "0",
               *(word.format_map(places) for word in options)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(files), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
    )  # fmt: skip
    lines = (done.stdout + done.stderr).splitlines()
    says, hint = meaning(Ended(status=done.returncode, lines=tuple(lines)), FuriosaServer.endings)
    assert reason in says
    assert hint
    said(real="all of it, engine included", seen=says)


def test_its_own_reader_of_bundles_agrees_with_ours(tmp_path: Path, said: Any) -> None:
    from actors.compiled_furiosa import read_bundle

    python = python_of("furiosa")
    shapes = [
        manifest((8, 2048), (4, 4096), tp=4),
        manifest((1, 512), tp=2, pp=2),
        manifest(),
        {"format_version": 2, "kernels": {}},
        {"tensor_parallel_size": 4, "kernels": manifest((2, 256))["kernels"]},
    ]
    for number, shape in enumerate(shapes):
        path = write_bundle(tmp_path / f"{number}.fxb", shape)
        shown = subprocess.run(
            [str(python.parent / "fxb"), "show", str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        ours = read_bundle(path)
        assert f"tensor_parallel_size {ours.tp}" in shown
        assert f"pipeline_parallel_size {ours.pp}" in shown
        decode = [line.split() for line in shown.splitlines() if "input_ids=1" in line.split()]
        assert {(f"batch={b}") for b in ours.batches} == {words[1] for words in decode}
        assert {(f"attn={n}") for n in ours.lengths} == {words[2] for words in decode}
    said(
        real="fxb show of furiosa-llm 2026.4",
        stand_in="the bundles: manifests of ours, no kernels",
        seen=f"{len(shapes)} alike",
    )
