"""Calibrates this machine: probes it, starts a real engine in this process's tree, measures, and keeps what was measured.

Decides which device is measured with which model and threads. No Ray and no cluster are involved. It must not know how
times become a line (actors.calibrate), nor what the planner makes of it.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from actors.calibrate import BATCHES, DECODE_PROMPT_TOKENS, DECODE_TOKENS, Measured, measure
from actors.engine import EngineConfig
from actors.engine_config import REMOTE
from actors.errors import EngineError
from actors.host import RealHost
from actors.plugins import available_engines, make_engine
from actors.prober import prober_of_this_node
from actors.sources import form_path, path_of, resolve
from actors.text import TextModel
from placement.calibration import Calibration
from placement.catalog import EMULATED, EngineFacts, catalog, engines
from placement.devices import Device, Dtype, Health
from placement.errors import SpecError
from placement.layout import stored_dtype
from placement.modelspec import ModelFacts
from placement.units import GIB

from .calibrations import FOLDER, dump, file_name, write
from .spec import load_app
from .yaml_positions import did_you_mean

WINDOW = 2048
KV_BYTES = GIB

Arithmetic = Literal["fast", "exact"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model to measure."""

    name: str
    source: str
    arithmetic: Arithmetic = "fast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where it is measured: the device of this machine, the engine, its threads."""

    device: Device
    engine: EngineFacts
    threads: int


def subjects(target: str, only: str | None = None) -> tuple[Subject, ...]:
    """The models of a spec file, or the one behind a source such as `package://NAME`.

    Raises:
        SpecError: the spec is wrong, or has no such model.
    """
    if "://" in target:
        name = target.partition("://")[2].rstrip("/").rpartition("/")[2] or "model"
        return (Subject(name=name, source=target),)
    found = {
        d.id: Subject(name=d.id, source=d.model.source, arithmetic=d.arithmetic)
        for d in load_app(target).demands
    }
    if only is None:
        return tuple(found.values())
    if only not in found:
        raise SpecError(f"no model is called {only}", hint=did_you_mean(only, found))
    return (found[only],)


def find_bench(engine: str, threads: int | None = None) -> Bench:
    """A real, healthy device of this machine that an engine drives.

    Raises:
        SpecError: no such engine, none that can start here, or nothing that it drives.
    """
    if engine == EMULATED:
        raise SpecError(
            "emulated devices keep the cost model's own pace: there is nothing to measure",
            hint="give --engine openvino, on a machine with real devices",
        )
    startable, _ = available_engines()
    facts = engines().get(engine)
    if facts is None or engine not in startable:
        known = sorted(startable & set(engines()) - {EMULATED, REMOTE})
        raise SpecError(
            f"engine {engine} cannot start on this machine",
            hint=f"give --engine {' or '.join(known)}" if known else "see `shardyard doctor`",
        )
    device = next(_driven(facts), None)
    if device is None:
        raise SpecError(
            f"no real device of this machine is driven by {engine}",
            hint="`shardyard doctor` says what was found",
        )
    if threads is not None and threads > device.shares:
        raise SpecError(
            f"--threads {threads}: {device.id} has {device.shares}", hint="give fewer, or none"
        )
    return Bench(device=device, engine=facts, threads=threads or device.shares)


def calibrate(subject: Subject, bench: Bench, *, budget_s: float) -> tuple[Calibration, Measured]:
    """Measures one model; ends the engine's process on any error, SIGINT and SIGTERM included.

    Raises:
        ModelError: its weights are not here.
        EngineError: the engine failed, or was too slow.
        KeyboardInterrupt: somebody stopped it.
    """
    text = TextModel.load(path_of(subject.source))
    dtype = _dtype(subject, bench.engine, text.facts)
    path = form_path(subject.source, bench.engine.formats, dtype)
    needed = DECODE_PROMPT_TOKENS + DECODE_TOKENS
    if text.window < needed:
        raise EngineError(
            f"{subject.name} has a window of {text.window} tokens, {needed} are needed"
        )
    config = EngineConfig(
        model=subject.name,
        source=subject.source,
        model_path=str(path),
        dtype=dtype,
        facts=text.facts,
        device_class=bench.device.device_class,
        arithmetic=subject.arithmetic,
        window=min(WINDOW, text.window),
        max_sequences=max(BATCHES),
        kv_bytes=KV_BYTES,
        threads=bench.threads,
        eos_ids=text.eos_ids,
    )
    measured = asyncio.run(_until_done_or_told(config, bench.engine.name, budget_s))
    return _calibration(subject, bench, config, measured), measured


async def _until_done_or_told(config: EngineConfig, engine: str, budget_s: float) -> Measured:
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(
        measure(make_engine(engine), config, budget_s=budget_s, clock=time.monotonic)
    )
    told: list[int] = []
    # Set explicitly: a shell starts background jobs with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda n=number: (told.append(n), work.cancel()))
    try:
        return await work
    except asyncio.CancelledError:
        if told:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _dtype(subject: Subject, engine: EngineFacts, facts: ModelFacts) -> Dtype:
    """In which the engine is measured: as stored, as its form was prepared, or as it computes best."""
    if engine.stored_weights and facts.weights_bytes > 0:
        return stored_dtype(facts)
    able = engine.runs(subject.arithmetic)
    forms = [f for f in resolve(subject.source).forms if f.format in engine.formats]
    settled = {form.dtype for form in forms if form.dtype is not None}
    return next((dtype for dtype in able if dtype in settled), able[0])


def _driven(engine: EngineFacts) -> Iterator[Device]:
    report = prober_of_this_node(RealHost(), incarnation="").report()
    classes = {**catalog(), **{c.name: c for c in report.classes}}
    for device in report.devices:
        real = device.health is Health.HEALTHY and not device.emulated
        if real and engine.covers(classes[device.device_class]):
            yield device


def _calibration(
    subject: Subject, bench: Bench, config: EngineConfig, measured: Measured
) -> Calibration:
    assert config.dtype is not None
    return Calibration(
        device_class=bench.device.device_class,
        engine=bench.engine.name,
        model=subject.name,
        facts=config.facts,
        dtype=config.dtype,
        arithmetic=subject.arithmetic,
        shares=bench.threads,
        device_shares=bench.device.shares,
        prompt_tokens=measured.prompt_tokens,
        context=measured.context,
        sequences=max(batch for batch, _ in measured.steps),
        prefill_tokens_per_s=round(measured.prefill_tokens_per_s, 3),
        token_s_fixed=measured.token_s_fixed,
        token_s_per_sequence=measured.token_s_per_sequence,
        uncertainty=measured.uncertainty,
        source=f"shardyard calibrate, {measured.rounds} rounds",
        measured=datetime.now(UTC).date().isoformat(),
    )


def keep(found: Calibration, state: Path) -> Path:
    """Writes a measurement into the state folder; returns where it lies.

    Raises:
        SpecError: the folder cannot be written to.
    """
    place = state / FOLDER / file_name(found)
    write(place, dump([found]))
    return place
