"""YAML that a user wrote, as plain values that remember their lines.

Decides what YAML is accepted: one document, plain values, no tags, no merge keys, no key twice, bounded size, depth
and number of values (an alias counts as often as it is used). It must not know what the keys mean.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from placement.errors import SpecError

KeyPath = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
MAX_DEPTH = 40

# The C parser keeps a large file fast; the pure one behaves the same.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_TEXT = {"str", "timestamp", "value"}
_PLAIN = _TEXT | {"int", "float", "bool", "null", "map", "seq"}

_PYDANTIC_SUBJECT = re.compile(r"^(Value error, |Input |Dictionary |List |String )")

# The names of our own classes mean nothing to who wrote the file.
_MODEL_NAME = re.compile(r"valid dictionary( or instance of \w+)?")

# Octal, hexadecimal and base-60 numbers surprise: they stay the text that was typed.
_DECIMAL = re.compile(
    r"[-+]?(0|[1-9][0-9_]*)?(\.[0-9_]*)?([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", re.IGNORECASE
)


@dataclass(slots=True)
class Document:
    """The values of one file, with the line of each.

    Attributes:
        name: of the file, for messages.
        data: dicts with text keys, lists and scalars; an empty file is an empty dict.
        lines: path of keys -> line, counted from 1.
        raw: path of keys -> what the user typed, for scalars.
    """

    name: str
    data: Any = field(default_factory=dict[str, Any])
    lines: dict[KeyPath, int] = field(default_factory=dict)
    raw: dict[KeyPath, str] = field(default_factory=dict)

    def line(self, path: Sequence[str | int]) -> int:
        """The line of the longest known beginning of a path."""
        return self.lines.get(self._known(path), 1)

    def error(self, path: Sequence[str | int], says: str, *, hint: str = "") -> SpecError:
        """The error that a value is wrong, naming file, line and keys."""
        line = self.line(path)
        message = f"{self.name}:{line}: {place(path)}{says}"
        return SpecError(message, hint=hint, file=self.name, line=line, path=list(path))

    def validate(self, model: type[M]) -> M:
        """The data as a pydantic model.

        Raises:
            SpecError: about the first wrong value, an unknown key before all others.
        """
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            found = error.errors(include_url=False)
        first: Any = min(found, key=lambda f: f["type"] != "extra_forbidden")
        path: KeyPath = tuple(first["loc"])
        if first["type"] == "missing":
            raise self.error(path, "is required")
        path = self._known(path)
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(path[-1], keys_at(model, path[:-1]))
            raise self.error(path, "unknown key", hint=hint)
        raise self.error(path, self._sentence(path, first), hint=_nearest(first))

    def _known(self, path: Sequence[str | int]) -> KeyPath:
        known = tuple(path)
        while known and known not in self.lines:
            known = known[:-1]
        return known

    def _sentence(self, path: KeyPath, found: Any) -> str:
        says = _PYDANTIC_SUBJECT.sub("", found["msg"])
        says = _MODEL_NAME.sub("mapping", says).replace(" after validation", "")
        typed = self.raw.get(path)
        if typed is None or repr(typed) in says:
            return says
        if found["input"] is None:
            return f"{says}, not {typed or 'nothing'}"
        if isinstance(found["input"], bool) and typed.lower() not in ("true", "false"):
            return f'{says}; YAML reads {typed} as {found["input"]}, write "{typed}" for text'
        if isinstance(found["input"], str) and typed[:1].isdigit():
            return f'{says}, not the text "{typed[:60]}"'
        return f"{says}, not {typed[:60]}"


def _nearest(found: Any) -> str:
    """A hint where one of a few words was meant; the sentence has named them all."""
    if found["type"] != "literal_error":
        return ""
    words = re.findall(r"'([^']*)'", found["ctx"]["expected"])
    wrong = str(found["input"])[:100].lower().replace("-", "_")
    near = difflib.get_close_matches(wrong, words, n=1)
    return f"did you mean {near[0]}?" if near else ""


def place(path: Sequence[str | int]) -> str:
    """A path of keys as a beginning of a message.

    >>> place(("models", "m", "stops", 0))
    'models.m.stops[0]: '
    """
    dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return f"{dotted.lstrip('.')}: " if path else ""


def did_you_mean(wrong: object, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(str(wrong), names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(names)}" if names else ""


def keys_at(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that a model knows at a path; none where keys are names of the user's choice."""
    shape: Any = model
    for step in path:
        shape = _below(shape, step)
    if not _is_model(shape):
        return []
    return [known.alias or name for name, known in shape.model_fields.items()]


def _is_model(shape: Any) -> bool:
    return isinstance(shape, type) and issubclass(shape, BaseModel)


def _below(shape: Any, step: str | int) -> Any:
    """The type of what stands under one key of a value of type `shape`."""
    if _is_model(shape):
        fields = {known.alias or name: known for name, known in shape.model_fields.items()}
        return _bare(fields[str(step)].annotation) if str(step) in fields else None
    # dict[key, value] or list[item]: the last argument is what stands below.
    return _bare(get_args(shape)[-1]) if get_args(shape) else None


def _bare(annotation: Any) -> Any:
    """A type without `Annotated` and without `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _bare(next(a for a in get_args(annotation) if a is not type(None)))
    return annotation


def read_yaml(
    text: str, name: str, *, max_bytes: int = MAX_BYTES, max_values: int = MAX_VALUES
) -> Document:
    """Reads one YAML document.

    Raises:
        SpecError: not YAML, or YAML that is refused here; `fields` has `file` and `line`.
    """
    if len(text) > max_bytes or len(text.encode(errors="replace")) > max_bytes:
        says = f"{name}: is larger than {max_bytes >> 10} KiB"
        raise SpecError(says, hint="is it the right file?", file=name)
    try:
        _check_depth(text, name)
        root = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise _syntax_error(error, name) from None
    reader = _Reader(Document(name=name), max_values)
    if root is not None:
        reader.document.data = reader.read(root, ())
    return reader.document


def _check_depth(text: str, name: str) -> None:
    """Events come one by one, so that a deep file cannot exhaust the stack of the composer."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _error(name, event, f"more than {MAX_DEPTH} levels deep")


def _syntax_error(error: yaml.YAMLError, name: str) -> SpecError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = 1 if mark is None else mark.line + 1
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    says = f"{context}: {problem}" if context else problem
    return SpecError(
        f"{name}:{line}: is not YAML: {says}",
        hint="a space after each colon, spaces instead of tabs, quotes around special characters",
        file=name,
        line=line,
    )


def _error(name: str, node: Any, says: str, *, hint: str = "") -> SpecError:
    line = node.start_mark.line + 1
    return SpecError(f"{name}:{line}: {says}", hint=hint, file=name, line=line)


class _Reader:
    """Walks the node tree once, counting every value so that aliases cannot multiply without end."""

    def __init__(self, document: Document, max_values: int) -> None:
        self.document = document
        self._left = max_values
        self._scalars = yaml.SafeLoader("")

    def read(self, node: Any, path: KeyPath) -> Any:
        """The value of a node; notes its line."""
        self._count(node, path)
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        kind = node.tag.removeprefix(_TAG)
        if kind == node.tag or kind not in _PLAIN:
            says = f"{place(path)}the YAML tag {node.tag} is refused"
            raise _error(self.document.name, node, says, hint="write plain values, without a tag")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, k)) for k, item in enumerate(node.value)]
        self.document.raw[path] = node.value
        return self._scalar(node, kind, path)

    def _count(self, node: Any, path: KeyPath) -> None:
        self._left -= 1
        if self._left < 0:
            raise _error(self.document.name, node, "too many values (aliases count each time)")
        if len(path) > MAX_DEPTH:
            raise _error(self.document.name, node, "an alias contains itself")

    def _mapping(self, node: Any, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            line = key_node.start_mark.line + 1
            if key in values:
                says = f"{place((*path, key))}stands twice, in lines {lines[key]} and {line}"
                raise _error(self.document.name, key_node, says, hint="keep one of the two")
            lines[key] = line
            self.document.lines[*path, key] = line
            values[key] = self.read(value_node, (*path, key))
        return values

    def _key(self, node: Any) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag == _TAG + "merge":
            raise _error(
                self.document.name, node, "a key must be plain text, not a merge (<<) or a list"
            )
        return str(node.value)

    def _scalar(self, node: Any, kind: str, path: KeyPath) -> Any:
        if kind in _TEXT or (kind in ("int", "float") and not _DECIMAL.fullmatch(node.value)):
            return node.value
        try:
            return self._scalars.construct_object(node)
        except (ValueError, KeyError):
            says = f"{place(path)}{node.value[:60]!r} is no {kind}"
            raise _error(self.document.name, node, says) from None
