"""The forms in which a model's files lie on a node: which of them an engine reads, and what that settles.

An engine reads files of its formats. A form that was prepared in a dtype is computed in that dtype; where an engine reads
such forms alone, they are all that it may have there. An engine that reads any format is not bound by forms.
"""

from __future__ import annotations

from collections.abc import Iterable

from .devices import Dtype
from .engine_facts import EngineFacts
from .inventory import ModelForm, Node

PREPARED = ("safetensors", "onnx")
"""Formats that `shardyard prepare` makes."""

Forms = frozenset[tuple[str, frozenset[ModelForm]]]
"""Source -> forms of it, as pairs."""


def forms_on(node: Node, sources: frozenset[str]) -> Forms:
    """The forms that a node tells of each of these sources; those that it tells nothing of are left out."""
    first = {m.source: frozenset(m.forms) for m in reversed(node.models or ())}
    return frozenset((source, own) for source, own in first.items() if own and source in sources)


def readable(forms: Iterable[ModelForm], engine: EngineFacts) -> list[ModelForm]:
    """Those that an engine reads."""
    return [f for f in forms if not engine.formats or f.format in engine.formats]


def settled_dtypes(forms: Iterable[ModelForm], engine: EngineFacts) -> tuple[Dtype, ...]:
    """Dtypes that the engine may have there; empty = the forms do not say.

    >>> onnx = EngineFacts(name="e", drives=frozenset(), dtypes=("fp32", "int4"), formats=frozenset({"onnx"}))
    >>> settled_dtypes([ModelForm(format="gguf"), ModelForm(format="onnx", dtype="int4")], onnx)
    ('int4',)
    """
    if not engine.formats:
        return ()
    told = {f.dtype for f in readable(forms, engine)}
    return tuple(sorted(d for d in told if d is not None)) if None not in told else ()


def prepare_command(source: str, engine: EngineFacts, dtype: Dtype | None = None) -> str:
    """The command that makes a form which the engine reads; empty where none is made."""
    form = next((f for f in PREPARED if f in engine.formats), None)
    if form is None:
        return ""
    return f"shardyard prepare {source} --form {form}" + (f" --dtype {dtype}" if dtype else "")
