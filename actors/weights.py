"""Where a slot's weights are on this node, in a form that its engine reads. Knows sources and engines, no Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from placement.remote import is_remote
from placement.tuning import Tuning

from .engine_config import REMOTE
from .errors import ModelError, ModelMissing
from .generation import Text
from .plugins import engine_facts
from .slot import SlotSpec
from .sources import form_path, resolve
from .text import TextModel
from .untold_text import UntoldText

_FILE = "file://"
BUNDLE = "fxb"
"""What FuriosaAI's compiler writes; other vendors' compiled models are folders, and the weights at once."""


def model_path(slot: SlotSpec) -> str:
    """The path; empty for an engine that needs none.

    Raises:
        ModelMissing: it is not here; the hint is the command that brings it.
    """
    if slot.emulated or is_remote(slot.source) or slot.family == REMOTE:
        return ""
    facts = engine_facts(slot.engine)
    return str(form_path(slot.source, facts.formats if facts else frozenset(), slot.dtype))


def artifact_path(folder: str) -> str:
    """The compiled model beside the weights, for an engine that runs one besides them; empty where there is none.

    Raises:
        ModelError: there are several, so nobody knows which one is meant.
    """
    found = sorted(Path(folder).glob(f"*.{BUNDLE}")) if folder and Path(folder).is_dir() else []
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise ModelError(f"{folder} has {len(found)} bundles: {names}", hint="leave one there")
    return str(found[0]) if found else ""


def local_tuning(slot: SlotSpec) -> Tuning:
    """The slot's wishes with adapters as paths on this node.

    Raises:
        ModelMissing: an adapter is not here, or its source is none that lies on a node.
    """
    return replace(slot.tuning, lora=tuple((n, _adapter(n, s)) for n, s in slot.tuning.lora))


def _adapter(name: str, source: str) -> str:
    path = Path(source.removeprefix(_FILE)).expanduser()
    if not source.startswith(_FILE) or not path.is_dir():
        raise ModelMissing(
            f"the adapter {name} is not on this node: {source}",
            hint="copy its folder to the same place on every node, and name it as file:///PATH",
        )
    return str(path)


def load_text(slot: SlotSpec) -> Text:
    """The tokenizer and chat template of a slot; a stand-in for a model that only an endpoint knows.

    Raises:
        ModelError: they are not here, or of a kind that is not supported.
    """
    if is_remote(slot.tokenizer):
        return UntoldText(slot.window, slot.facts)
    presence = resolve(slot.tokenizer)
    if not presence.present:
        raise ModelMissing(presence.reason, hint=presence.hint, source=slot.tokenizer)
    return TextModel.load(presence.path)
