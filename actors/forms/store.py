"""Forms of a model on a node: the source's own files, and what `shardyard prepare` made of them.

Decides where prepared forms lie, when one belongs to a source (its files are the very ones that it was made of), that a form is found whole or
not at all, and which form an engine reads. It must not know engines by name, nor how a form is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import structlog

from placement.devices import Dtype

from ..errors import ModelMissing
from .gguf import FILE

log = structlog.get_logger()

FORM_REFUSED = "form.refused"

FORMS_ENV = "SHARDYARD_FORMS"
"""The folder of all prepared forms."""
MANIFEST = "shardyard-form.json"
"""Written into a form last; a folder without it is no form."""
SETTLED = frozenset({"onnx"})
"""Formats whose files are computed in the dtype that they were prepared in; an engine may compute others in any."""

_MARKS = (
    ("rbln", "rbln_config.json"),
    ("openvino", "openvino_model.xml"),
    ("onnx", "*.onnx"),
    ("fxb", "*.fxb"),
    ("safetensors", "*.safetensors"),
    ("gguf", "*.gguf"),
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SCRATCH = ".making-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Files of a model in one format.

    Attributes:
        dtype: that it was prepared in; None = as the source is.
        path: what an engine opens.
    """

    format: str
    dtype: Dtype | None
    path: Path

    @property
    def settled(self) -> Dtype | None:
        """The one dtype that it is computed in; None = any."""
        return self.dtype if self.format in SETTLED else None


def home() -> Path:
    """The folder of all prepared forms; it need not exist."""
    named = os.environ.get(FORMS_ENV)
    if named:
        return Path(named).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "shardyard" / "forms"


def identity(path: Path) -> str:
    """What names the files of a source: where they really lie, their sizes and times. 16 hexadecimal digits.

    A folder's own are those at its top, which is where weights lie.
    """
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        real = file.resolve()
        stat = real.stat()
        digest.update(f"{real}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def formats_in(path: Path) -> tuple[str, ...]:
    """The formats of weights at a path. `pickle` only where there is nothing else.

    >>> formats_in(Path("/models/m.gguf"))
    ('gguf',)
    """
    if not path.is_dir():
        return ("fxb",) if path.suffix == ".fxb" else ("gguf",)
    found = tuple(name for name, mark in _MARKS if any(path.glob(mark)))
    if found or not any(any(path.glob(kind)) for kind in _PICKLES):
        return found
    return ("pickle",)


def forms_of(path: Path) -> tuple[Form, ...]:
    """All forms of a source: its own first, then what was prepared of it. Cheap: names and a small file of each."""
    own = _manifest(path) if path.is_dir() else {}
    dtype = _dtype(own.get("dtype"))
    found = [Form(format=name, dtype=dtype, path=path) for name in formats_in(path)]
    try:
        belongs = identity(path)
    except OSError:
        return tuple(found)
    return (*found, *_prepared(home() / belongs, belongs))


def form_at(path: Path, formats: Iterable[str], dtype: Dtype | None, source: str) -> Path:
    """The path of the form that an engine reads: the one prepared in that dtype, else the source itself, else any other.

    Args:
        formats: that it reads; none = any, which is the source itself.
        dtype: that it is to compute; None = any.
        source: the address, for the hint.

    Raises:
        ModelMissing: there is none, or it is computed in another dtype.
    """
    wanted = frozenset(formats)
    if not wanted:
        return path
    known = forms_of(path)
    fit = [f for f in known if f.format in wanted and (not dtype or f.settled in (None, dtype))]
    if fit:
        return min(fit, key=lambda form: (form.dtype != dtype, form.path != path)).path
    there = ", ".join(sorted({_said(form) for form in known})) or "no weights"
    raise ModelMissing(
        f"{source} lies here as {there}; needed is {' or '.join(sorted(wanted))}"
        + (f" for {dtype}" if dtype else ""),
        hint=_command(source, wanted, dtype),
    )


def _said(form: Form) -> str:
    return f"{form.format} in {form.settled}" if form.settled else form.format


def _command(source: str, formats: frozenset[str], dtype: Dtype | None) -> str:
    made = next((name for name in ("safetensors", "onnx", "gguf") if name in formats), None)
    if made is None:
        return f"bring {source} to this node as {' or '.join(sorted(formats))}"
    settles = f" --dtype {dtype}" if dtype and made in SETTLED else ""
    return f"shardyard prepare {source} --form {made}{settles}"


def place_of(belongs: str, form: str, dtype: Dtype) -> Path:
    """The folder of a form of the source with that identity."""
    return home() / belongs / f"{form}-{dtype}"


@contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """A folder beside the place of a form, to make it in; nothing of it is left, nor of those whose makers were killed.

    Only whoever holds the lock of the place may call it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    name = f"{_SCRATCH}{place.name}"
    folder = place.parent / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, place: Path, told: Mapping[str, Any]) -> None:
    """Puts a form in its place, whole: every file and the manifest are on the disk before it has its name.

    Args:
        made: folder with its files, on the same file system.
        told: what its manifest says beside the files, e.g. `format`, `dtype`, `source`.
    """
    (made / MANIFEST).unlink(missing_ok=True)
    files = sorted(p for p in made.rglob("*") if p.is_file())
    for file in files:
        _to_disk(file)
    sizes = {str(file.relative_to(made)): file.stat().st_size for file in files}
    manifest = made / MANIFEST
    manifest.write_text(json.dumps({**told, "files": sizes}, indent=2) + "\n", encoding="utf-8")
    _to_disk(manifest)
    _to_disk(made)
    shutil.rmtree(place, ignore_errors=True)
    made.rename(place)
    _to_disk(place.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prepared form as its manifest tells of it.

    Attributes:
        source: the address that it was made of.
        size_bytes: of its files.
        flaw: why it counts for nobody; empty = it is whole.
    """

    form: Form
    source: str
    made: str
    size_bytes: int
    flaw: str = ""


def everything() -> tuple[Prepared, ...]:
    """All that was ever prepared on this node, broken forms included."""
    places = sorted(p for p in home().glob("*/*") if p.is_dir() and not p.name.startswith("."))
    return tuple(_told(place) for place in places)


def _told(place: Path) -> Prepared:
    manifest = _manifest(place)
    name, _, dtype = place.name.rpartition("-")
    form = Form(format=name, dtype=_dtype(dtype), path=_opened(place, name))
    sizes = manifest.get("files")
    return Prepared(
        form=form,
        source=str(manifest.get("source", "")),
        made=str(manifest.get("made", "")),
        size_bytes=sum(s for s in sizes.values() if type(s) is int)
        if isinstance(sizes, dict)
        else 0,
        flaw=_flaw(place, manifest, place.parent.name),
    )


def _prepared(folder: Path, belongs: str) -> Iterator[Form]:
    """The whole forms in the folder of one source."""
    try:
        places = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return
    for place in places:
        flaw = _flaw(place, _manifest(place), belongs)
        if flaw:
            log.warning(FORM_REFUSED, form=str(place), reason=flaw)
            continue
        name, _, dtype = place.name.rpartition("-")
        yield Form(format=name, dtype=_dtype(dtype), path=_opened(place, name))


def _opened(place: Path, form: str) -> Path:
    """What an engine opens of a prepared form."""
    return place / FILE if form == "gguf" else place


def _manifest(place: Path) -> dict[str, Any]:
    try:
        if not (place / MANIFEST).is_file():  # reading a pipe would never end
            return {}
        said = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _flaw(place: Path, manifest: Mapping[str, Any], belongs: str) -> str:
    """Why a folder is not the form that its place says; empty = it is."""
    if not manifest:
        return f"{MANIFEST} is missing or cannot be read"
    if f"{manifest.get('format')}-{manifest.get('dtype')}" != place.name:
        return f"{MANIFEST} tells of {manifest.get('format')} in {manifest.get('dtype')}"
    if manifest.get("identity") != belongs:
        return "it was made of other files"
    sizes = manifest.get("files")
    if not isinstance(sizes, dict) or not sizes:
        return f"{MANIFEST} names no files"
    if _dtype(manifest.get("dtype")) is None:
        return f"{MANIFEST} tells of a dtype that is none"
    if not all(_is_below(name) for name in sizes):
        return f"{MANIFEST} names files elsewhere"
    if manifest.get("format") == "gguf" and FILE not in sizes:
        return f"{MANIFEST} does not name {FILE}"
    return next(
        (
            f"{n[:100]} is missing or of another size"
            for n, s in sizes.items()
            if _size(place / n) != s
        ),
        "",
    )


def _is_below(name: str) -> bool:
    """Whether a name can be that of a file in a form."""
    return name.isprintable() and not Path(name).is_absolute() and ".." not in Path(name).parts


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _dtype(word: object) -> Dtype | None:
    return cast("Dtype", word) if word in get_args(Dtype) else None
