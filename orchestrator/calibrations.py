"""Calibrations as YAML: written by `shardyard calibrate`, read by `plan --calibrations` and from an inventory file.

Decides the keys of one measurement and where the state folder keeps them. It must not know how anything is measured, nor
what a measurement does to a prediction (placement.calibration).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
import yaml
from pydantic import BeforeValidator, Field

from placement.calibration import Calibration
from placement.devices import Dtype
from placement.errors import SpecError
from placement.inventory import Inventory
from placement.modelspec import ModelFacts

from .spec import read_spec, spec_name
from .spec_grammar import Count, Facts, Name, Positive, Strict, Word, number
from .yaml_positions import read_yaml

log = structlog.get_logger()

CALIBRATIONS_BROKEN = "calibrations.broken"

FOLDER = "calibrations"
"""Under the state folder."""

MAX_FILES = 1000
_NEVER = "emulated"

_Ratio = Annotated[float, BeforeValidator(number), Field(ge=0, le=10, allow_inf_nan=False)]
_Amount = Annotated[float, BeforeValidator(number), Field(ge=0, le=1e9, allow_inf_nan=False)]
_Size = Annotated[int, Field(ge=1, le=65_536)]


class Measurement(Strict):
    """One entry of `calibrations`."""

    device_class: Word = Field(alias="class")
    engine: Word
    model: Name
    facts: Facts
    dtype: Dtype
    arithmetic: Literal["fast", "exact"] = "fast"
    tp: _Size = 1
    shares: _Size = 1
    device_shares: _Size = 1
    prompt_tokens: Count
    context: Count
    sequences: _Size
    prefill_tokens_per_s: Positive
    token_ms_fixed: _Amount
    token_ms_per_sequence: _Amount
    uncertainty: _Ratio = 0.1
    source: Annotated[str, Field(max_length=1000)] = ""
    measured: Annotated[str, Field(max_length=40)] = ""


class CalibrationFile(Strict):
    """A file that holds nothing but measurements."""

    calibrations: Annotated[list[Measurement], Field(max_length=10_000)]


class CalibrationFolder:
    """The measurements under a state folder. See `ports.Calibrations`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> tuple[Calibration, ...]:
        """What is kept; a folder with a broken file says so and counts as empty."""
        try:
            return load(self._folder) if self._folder.is_dir() else ()
        except SpecError as error:
            log.warning(CALIBRATIONS_BROKEN, folder=str(self._folder), reason=error.message)
            return ()

    def keep(self, found: Calibration) -> None:
        """Writes one; a folder that cannot be written to is no reason to stop serving."""
        try:
            write(self._folder / file_name(found), dump([found]))
        except SpecError as error:
            log.warning(CALIBRATIONS_BROKEN, folder=str(self._folder), reason=error.message)


def load(path: str | Path) -> tuple[Calibration, ...]:
    """The measurements of a file, or of all files of a folder.

    Raises:
        SpecError: it is missing or wrong; with file and line.
    """
    folder = Path(path)
    if not folder.is_dir():
        return _load_file(path)
    files = sorted(folder.glob("*.yaml"))
    if len(files) > MAX_FILES:
        says = f"{folder}: {len(files)} files, {MAX_FILES} at most"
        raise SpecError(says, hint="is it the right folder?")
    return tuple(found for file in files for found in _load_file(file))


def with_calibrations(inventory: Inventory, more: Iterable[Calibration]) -> Inventory:
    """The inventory with further measurements."""
    return replace(inventory, calibrations=(*inventory.calibrations, *more))


def calibration(entry: Measurement) -> Calibration | str:
    """The measurement in the core's units, or why it cannot be one."""
    if entry.engine == _NEVER:
        return "emulated devices keep the cost model's own pace: they measure nothing"
    if not entry.token_ms_fixed and not entry.token_ms_per_sequence:
        return "token_ms_fixed and token_ms_per_sequence cannot both be 0"
    if entry.shares > entry.device_shares:
        return f"{entry.shares} shares of a device of {entry.device_shares}"
    return Calibration(
        device_class=entry.device_class,
        engine=entry.engine,
        model=entry.model,
        facts=ModelFacts(**entry.facts.model_dump()),
        dtype=entry.dtype,
        arithmetic=entry.arithmetic,
        tp=entry.tp,
        shares=entry.shares,
        device_shares=entry.device_shares,
        prompt_tokens=entry.prompt_tokens,
        context=entry.context,
        sequences=entry.sequences,
        prefill_tokens_per_s=entry.prefill_tokens_per_s,
        token_s_fixed=entry.token_ms_fixed / 1e3,
        token_s_per_sequence=entry.token_ms_per_sequence / 1e3,
        uncertainty=entry.uncertainty,
        source=entry.source,
        measured=entry.measured,
    )


def as_entry(found: Calibration) -> dict[str, Any]:
    """The measurement with the keys of a file."""
    kept = ("engine", "model", "dtype", "arithmetic", "tp", "shares", "device_shares")
    more = ("prompt_tokens", "context", "sequences", "source", "measured")
    return {
        "class": found.device_class,
        **{key: getattr(found, key) for key in kept},
        **{key: getattr(found, key) for key in more},
        "prefill_tokens_per_s": found.prefill_tokens_per_s,
        "token_ms_fixed": _plain(found.token_s_fixed * 1e3),
        "token_ms_per_sequence": _plain(found.token_s_per_sequence * 1e3),
        "uncertainty": found.uncertainty,
        "facts": {name: getattr(found.facts, name) for name in Facts.model_fields},
    }


def dump(found: Iterable[Calibration]) -> str:
    """Measurements as the YAML that `load` reads."""
    document: Mapping[str, Any] = {"calibrations": [as_entry(c) for c in found]}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def file_name(found: Calibration) -> str:
    """One file per class, engine, model and layout: the newest measurement replaces the one before."""
    layout = f"tp{found.tp}x{found.shares}"
    parts = (found.device_class, found.engine, found.model, found.dtype, found.arithmetic, layout)
    return "-".join(parts).replace("/", "_") + ".yaml"


def write(path: Path, text: str) -> None:
    """A new file, synced, renamed over the old one.

    Raises:
        SpecError: the place cannot be written to.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):  # where nothing can be written, nothing is left
            fresh.unlink(missing_ok=True)
        raise SpecError(f"{path}: {error.strerror}", hint="give another --out FILE") from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load_file(path: str | Path) -> tuple[Calibration, ...]:
    document = read_yaml(read_spec(path), spec_name(path))
    file = document.validate(CalibrationFile)
    kept: list[Calibration] = []
    for index, entry in enumerate(file.calibrations):
        found = calibration(entry)
        if isinstance(found, str):
            raise document.error(("calibrations", index), found)
        kept.append(found)
    return tuple(kept)


def _plain(value: float) -> float:
    """A figure as a person would have written it: changing units leaves no rounding behind."""
    return float(f"{value:.12g}")
