"""Makes forms of a model's source on this machine: what is made of what, in which environment, and that it is found whole or not at all.

Decides the way from the source's format to the one that is wanted, disk space and deadline. Where forms lie is
`actors.forms.store`; what happens inside a form, the module that the environment runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors import environments
from actors.errors import ModelError
from actors.forms import store as forms
from actors.forms.store import Form
from actors.sources import facts_of, path_of
from actors.worker.foreign_main import command
from placement.devices import BYTES_PER_VALUE, Dtype
from placement.units import GIB

from .builds import watched
from .errors import InstallError, TimedOut

DEADLINE_S = 3600.0
_ROOM = 1.3
"""Free space that is asked for, over the size of the weights: tokenizers, and what a builder keeps meanwhile."""
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_BESIDE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
"""What sizes a model and makes its text; builders of graphs do not always copy all of it."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How one format is made of another.

    Attributes:
        module: run in the environment with source, target and dtype.
        dtypes: that it makes, the usual one first.
        scratch_bytes: for each weight, while it works, beside the result.
    """

    of: str
    environment: str
    module: str
    dtypes: tuple[Dtype, ...]
    scratch_bytes: int = 0


WAYS: dict[str, Making] = {
    "safetensors": Making(
        of="gguf",
        environment="torch",
        module="actors.forms.safetensors",
        dtypes=("fp32", "fp16", "bf16"),
    ),
    "gguf": Making(
        of="gguf", environment="torch", module="actors.forms.gguf", dtypes=("fp16", "fp32")
    ),
    "onnx": Making(
        of="safetensors",
        environment="onnx-builder",
        module="actors.onnx.build",
        dtypes=("fp32", "fp16", "int8", "int4"),
        scratch_bytes=4,
    ),
}


def prepare(
    source: str,
    form: str,
    dtype: Dtype | None,
    say: Say,
    *,
    force: bool = False,
    deadline_s: float = DEADLINE_S,
) -> Form:
    """The form of a source in a dtype, made when it is not there.

    Args:
        dtype: None = the usual one of that form.
        force: make it also when it is there.

    Raises:
        ModelError: the source is not here, or nothing of that form can be made of it.
        InstallError: the environment is missing, the disk too full, or another process is at it.
        TimedOut: the deadline passed.
    """
    until_s = time.monotonic() + deadline_s
    way = WAYS[form]
    wanted = dtype or way.dtypes[0]
    if wanted not in way.dtypes:
        raise ModelError(
            f"{form} is not made in {wanted}", hint=f"--dtype {' or '.join(way.dtypes)}"
        )
    path = path_of(source)
    known = forms.forms_of(path)
    if not force and (there := _found(known, form, wanted)) is not None:
        return there
    if dtype is None and (own := _found(known, form, None)) is not None and form != "gguf":
        return own
    origin = _origin(source, path, way, say, until_s)
    return _make(_Order(source, path, origin, form, wanted, way), say, until_s)


def _found(known: tuple[Form, ...], form: str, dtype: Dtype | None) -> Form | None:
    return next((f for f in known if (f.format, f.dtype) == (form, dtype)), None)


def _origin(source: str, path: Path, way: Making, say: Say, until_s: float) -> Path:
    """The files that it is made of; they are made first where that can be."""
    formats = forms.formats_in(path)
    if way.of in formats:
        return path
    nearer = WAYS.get(way.of)
    if nearer is None or nearer.of not in formats or way.of == nearer.of:
        there = ", ".join(formats) or "no weights"
        raise ModelError(
            f"{source} lies here as {there}, and this form is made of {way.of} only",
            hint="name a source in GGUF or safetensors",
        )
    say(f"{way.of} first")
    left_s = max(0.0, until_s - time.monotonic())
    return prepare(source, way.of, None, say, deadline_s=left_s).path


@dataclass(frozen=True, slots=True)
class _Order:
    source: str
    path: Path
    origin: Path
    form: str
    dtype: Dtype
    way: Making


def _make(order: _Order, say: Say, until_s: float) -> Form:
    interpreter = _interpreter(order.way.environment)
    belongs = forms.identity(order.path)
    place = forms.place_of(belongs, order.form, order.dtype)
    with _locked(place), forms.scratch(place) as scratch:
        _need_room(order, place)
        made = scratch / order.form
        _run(order, interpreter, made, say, until_s)
        if order.form != "gguf":
            _complete(order.origin, made)
        if forms.identity(order.path) != belongs:
            raise ModelError(
                f"{order.source} changed while it was read", hint="run the same command again"
            )
        forms.publish(made, place, _manifest(order, made, belongs))
    found = _found(forms.forms_of(order.path), order.form, order.dtype)
    if found is None:
        raise ModelError(f"{place} was made and is not whole", hint="run the same command again")
    return found


def _interpreter(environment: str) -> Path:
    python, trouble = environments.interpreter(environment), environments.trouble(environment)
    if python is None or trouble is not None:
        reason = trouble.reason if trouble else f"the environment {environment} cannot be used"
        raise InstallError(reason, hint=trouble.hint if trouble else "")
    return python


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One maker at a time; the kernel lets go when it dies."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = (place.parent / f".{place.name}.lock").open("w")
    except OSError as error:
        raise InstallError(
            f"{place.parent} cannot be written: {error.strerror}",
            hint=f"set {forms.FORMS_ENV} to a folder of your own",
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallError(
                f"another process makes {place.name} of this source", hint="wait for it"
            ) from None
        yield


def _need_room(order: _Order, place: Path) -> None:
    """Refuses what the disk cannot hold."""
    values = BYTES_PER_VALUE[order.dtype] + order.way.scratch_bytes
    wanted = facts_of(order.path).parameters * values * _ROOM
    free = shutil.disk_usage(place.parent).free
    if free < wanted:
        raise InstallError(
            f"{place.parent} has {free / GIB:.1f} GiB free, and {order.form} in {order.dtype}"
            f" takes about {wanted / GIB:.1f} GiB",
            hint=f"free some space, or set {forms.FORMS_ENV} to a folder on a larger disk",
        )


def _run(order: _Order, interpreter: Path, made: Path, say: Say, until_s: float) -> None:
    """Runs the maker to its end; what it tells is passed on."""
    heard = _Heard(say)
    ended = watched(
        command(str(interpreter), order.way.module, *_arguments(order, made)),
        _variables(order.way.environment),
        until_s,
        heard,
    )
    if ended.overdue:
        raise TimedOut(
            f"{order.form} was not made in time", hint="run it again with a longer --timeout"
        )
    if ended.status == 0:
        return
    hint = heard.hint or f"shardyard env check {order.way.environment}"
    last = ended.last[-1] if ended.last else ""
    reason = heard.error or f"status {ended.status}: {last}"
    if ended.status < 0:
        reason = f"signal {-ended.status}; with 9 the kernel was out of memory"
    raise ModelError(f"{order.form} could not be made of {order.source}: {reason}", hint=hint)


def _arguments(order: _Order, made: Path) -> tuple[str, ...]:
    """Builders of graphs make their folder themselves."""
    if order.form == "onnx":
        return str(order.origin), str(made), "--dtype", order.dtype
    made.mkdir()
    return str(order.origin), str(made), order.dtype


def _variables(environment: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    return kept | {**environments.variables(environment)}


class _Heard:
    """What a maker tells: progress as lines of JSON, at a failure the reason; everything else is noise of its libraries."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._shown = ""
        self.error = ""
        self.hint = ""

    def __call__(self, line: str) -> None:
        try:
            told: Any = json.loads(line)
        except ValueError:
            return
        if not isinstance(told, dict):
            return
        self.error, self.hint = str(told.get("error", "")), str(told.get("hint", ""))
        done, stage = told.get("progress"), str(told.get("stage", ""))
        if isinstance(done, int | float) and stage:
            shown = f"{done:4.0%}  {stage}"
            if shown != self._shown:
                self._say(shown)
            self._shown = shown


def _complete(origin: Path, made: Path) -> None:
    for name in _BESIDE:
        if (origin / name).exists() and not (made / name).exists():
            shutil.copyfile(origin / name, made / name)


def _manifest(order: _Order, made: Path, belongs: str) -> dict[str, Any]:
    """What the form says of itself: the maker's own notes, too."""
    notes: dict[str, Any] = {}
    if (made / forms.MANIFEST).exists():
        notes = json.loads((made / forms.MANIFEST).read_text(encoding="utf-8"))
    return {
        **notes,
        "format": order.form,
        "dtype": order.dtype,
        "source": order.source,
        "identity": belongs,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
