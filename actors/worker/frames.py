"""Frames between an engine's parent and its worker process: `u32 length | u8 kind | payload`, little-endian.

One frame per engine step carries the rows of all sequences as columns, so that a token costs next to nothing.
Pure codec; both ends are always of one version, as the parent starts the worker from its own files.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from placement.modelspec import ModelFacts
from placement.tuning import Tuning

from ..engine import (
    Capabilities,
    EngineConfig,
    EngineStats,
    FinishReason,
    Pace,
    Sampling,
    StagePlace,
)
from .stepper import Row


class Kind(enum.IntEnum):
    """What a frame says."""

    LOAD = 1
    ADD = 2
    ABORT = 3
    CLOSE = 4
    PROGRESS = 5
    LOADED = 6
    LOAD_FAILED = 7
    STEP = 8
    FAILED = 9


_PREFIX = struct.Struct("<IB")
_SEQUENCE = struct.Struct("<I")
_PROGRESS = struct.Struct("<d")
_ADD = struct.Struct("<IqddQ?ddI")
_STEP = struct.Struct("<IIdI")
_FINISHES: tuple[FinishReason | None, ...] = (None, "stop", "length", "abort")


def frame(kind: Kind, payload: bytes = b"") -> bytes:
    """One frame."""
    return _PREFIX.pack(len(payload), kind) + payload


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Kind and payload of every frame that these bytes complete."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _PREFIX.size:
            length, kind = _PREFIX.unpack_from(buffer, start)
            end = start + _PREFIX.size + length
            if len(buffer) < end:
                break
            yield kind, bytes(buffer[start + _PREFIX.size : end])
            start = end
        del buffer[:start]


def load_frame(config: EngineConfig) -> bytes:
    """LOAD."""
    return frame(Kind.LOAD, json.dumps(dataclasses.asdict(config)).encode())


def config_of(payload: bytes) -> EngineConfig:
    """Inverse of `load_frame`."""
    fields: dict[str, Any] = json.loads(payload)
    pace = fields.pop("pace")
    return EngineConfig(
        facts=ModelFacts(**fields.pop("facts")),
        tuning=Tuning(**_tupled(fields.pop("tuning"))),
        stages=tuple(StagePlace(**_tupled(stage)) for stage in fields.pop("stages")),
        pace=None if pace is None else Pace(**pace),
        **_tupled(fields),
    )


def _tupled(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields whose sequences are tuples again, as deep as they go."""
    return {name: _tuple(value) for name, value in fields.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def loaded_frame(capabilities: Capabilities) -> bytes:
    """LOADED."""
    return frame(Kind.LOADED, json.dumps(dataclasses.asdict(capabilities)).encode())


def capabilities_of(payload: bytes) -> Capabilities:
    """Inverse of `loaded_frame`."""
    return Capabilities(**_tupled(json.loads(payload)))


def add_frame(sequence: int, prompt_ids: Sequence[int], sampling: Sampling) -> bytes:
    """ADD."""
    s = sampling
    schema = s.json_schema.encode()
    head = _ADD.pack(
        sequence,
        s.max_tokens,
        s.temperature,
        s.top_p,
        s.seed & 0xFFFF_FFFF_FFFF_FFFF,
        s.ignore_eos,
        s.frequency_penalty,
        s.presence_penalty,
        len(schema),
    )
    return frame(Kind.ADD, head + schema + _pack_ids(prompt_ids))


def added(payload: bytes) -> tuple[int, tuple[int, ...], Sampling]:
    """Inverse of `add_frame`."""
    sequence, most, temperature, top_p, seed, ignore_eos, frequency, presence, schema_bytes = (
        _ADD.unpack_from(payload)
    )
    ids_at = _ADD.size + schema_bytes
    sampling = Sampling(
        max_tokens=most,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        ignore_eos=ignore_eos,
        frequency_penalty=frequency,
        presence_penalty=presence,
        json_schema=payload[_ADD.size : ids_at].decode(),
    )
    return sequence, _unpack_ids(payload, ids_at, len(payload)), sampling


def abort_frame(sequence: int) -> bytes:
    """ABORT."""
    return frame(Kind.ABORT, _SEQUENCE.pack(sequence))


def aborted(payload: bytes) -> int:
    """Inverse of `abort_frame`."""
    return _SEQUENCE.unpack(payload)[0]


def progress_frame(fraction: float) -> bytes:
    """PROGRESS."""
    return frame(Kind.PROGRESS, _PROGRESS.pack(fraction))


def progressed(payload: bytes) -> float:
    """Inverse of `progress_frame`."""
    return _PROGRESS.unpack(payload)[0]


def trouble_frame(kind: Kind, message: str, hint: str = "", sequence: int = 0) -> bytes:
    """LOAD_FAILED, or FAILED for one sequence."""
    text = json.dumps({"sequence": sequence, "message": message, "hint": hint})
    return frame(kind, text.encode())


def trouble(payload: bytes) -> tuple[int, str, str]:
    """Inverse of `trouble_frame`: sequence, message, hint."""
    fields = json.loads(payload)
    return fields["sequence"], fields["message"], fields["hint"]


def step_frame(rows: Sequence[Row], stats: EngineStats) -> bytes:
    """STEP: columns of sequence numbers, finish reasons, counts of ids, and all ids."""
    head = _STEP.pack(stats.running, stats.waiting, stats.kv_used_ratio, len(rows))
    finishes = bytes([_FINISHES.index(row.finish) for row in rows])
    ids = [n for row in rows for n in row.ids]
    columns = (
        _pack_ids([row.sequence for row in rows]),
        finishes,
        _pack_ids([len(row.ids) for row in rows]),
        _pack_ids(ids),
    )
    return frame(Kind.STEP, head + b"".join(columns))


def stepped(payload: bytes) -> tuple[list[Row], EngineStats]:
    """Inverse of `step_frame`."""
    running, waiting, kv_used, count = _STEP.unpack_from(payload)
    finishes_at = _STEP.size + 4 * count
    counts_at = finishes_at + count
    ids_at = counts_at + 4 * count
    sequences = _unpack_ids(payload, _STEP.size, finishes_at)
    finishes = payload[finishes_at:counts_at]
    counts = _unpack_ids(payload, counts_at, ids_at)
    ids = _unpack_ids(payload, ids_at, len(payload))
    rows: list[Row] = []
    start = 0
    for sequence, finish, length in zip(sequences, finishes, counts, strict=True):
        rows.append(Row(sequence, ids[start : start + length], _FINISHES[finish]))
        start += length
    return rows, EngineStats(running=running, waiting=waiting, kv_used_ratio=kv_used)


def _pack_ids(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}I", *ids)


def _unpack_ids(payload: bytes, start: int, end: int) -> tuple[int, ...]:
    return struct.unpack_from(f"<{(end - start) // 4}I", payload, start)
