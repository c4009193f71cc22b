"""What a folder of optimum-rbln (`rbln_config.json` and one `.rbln` file per graph) was compiled for, read without its software.

Decides whether such a folder is whole, and its sizes, which are hard limits: nothing else was compiled. Its JSON file alone
is read. It must not know engines or devices.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LoadFailed

CONFIG = "rbln_config.json"
CONFIG_BYTES = 8 << 20
GRAPHS = 1000
"""Most graphs of one model; one per decoded batch size and one per phase are usual."""
COMPILE = "compile it with optimum-rbln: RBLNAutoModelForCausalLM.from_pretrained(MODEL, export=True, rbln_config=…)"

_PICKLES = ("*.pth", "*.pt", "*.bin")
_GRAPH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_NPU = re.compile(r"(RBLN-C[AR])(\d)(\d?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledModel:
    """A compiled model's sizes.

    Attributes:
        batch: most sequences at once.
        window: longest sequence in tokens.
        batches: sizes that a step can have, ascending.
        devices: that share each layer.
        npu: product that it was compiled for, such as `RBLN-CA25`; empty = it does not say.
        version: of the optimum-rbln that wrote it; empty = it does not say.
        pickles: files beside the graphs that run code when optimum-rbln reads them.
    """

    batch: int
    window: int
    batches: tuple[int, ...]
    devices: int
    npu: str
    version: str
    pickles: tuple[str, ...] = ()


def read_compiled(folder: Path) -> CompiledModel:
    """The model in a folder; every graph that its configuration names is there.

    Raises:
        LoadFailed: something is missing, torn, or of an older layout.
    """
    config = _config(folder / CONFIG)
    if "_meta" in config:
        raise LoadFailed(f"{folder / CONFIG} has the layout of an older release", hint=COMPILE)
    graphs = _graphs(config, folder)
    batch = _size(config, "batch_size", folder)
    return CompiledModel(
        batch=batch,
        window=_size(config, "max_seq_len", folder),
        batches=_batches(config.get("decoder_batch_sizes"), batch),
        devices=_devices(config, graphs, folder),
        npu=_first_text(graphs, "npu") or _first_text([config], "npu"),
        version=_first_text([config], "optimum_rbln_version"),
        pickles=tuple(sorted(p.name for kind in _PICKLES for p in folder.glob(kind))),
    )


def npu_family(name: str) -> str:
    """A product's family: what is compiled for one runs on all of it, as the form factor makes no difference.

    >>> [npu_family(n) for n in ("RBLN-CA12", "RBLN-CA25", "RBLN-CA2", "rbln-cr03", "RBLN-X1")]
    ['RBLN-CA1', 'RBLN-CA2', 'RBLN-CA0', 'RBLN-CR0', 'RBLN-X1']
    """
    match = _NPU.fullmatch(name.strip().upper())
    if match is None:
        return name.strip().upper()
    series, family, form = match.groups()
    return f"{series}{family if form else 0}"


def _config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES + 1)
        found = json.loads(text) if len(text) <= CONFIG_BYTES else None
    except FileNotFoundError:
        raise LoadFailed(
            f"{path.parent} is no compiled model: it has no {CONFIG}", hint=COMPILE
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise LoadFailed(f"{path} cannot be read: {str(error)[:200]}", hint=COMPILE) from None
    if not isinstance(found, dict):
        raise LoadFailed(f"{path} is no object of at most {CONFIG_BYTES} bytes", hint=COMPILE)
    return found


def _graphs(config: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The compiled graphs' own entries; their files are there and hold something."""
    graphs = config.get("_compile_cfgs")
    if not isinstance(graphs, list) or not 0 < len(graphs) <= GRAPHS:
        raise LoadFailed(f"{folder / CONFIG} names no compiled graphs", hint=COMPILE)
    for graph in graphs:
        name = graph.get("compiled_model_name") if isinstance(graph, dict) else None
        if not isinstance(name, str) or not _GRAPH.fullmatch(name):
            raise LoadFailed(
                f"{folder / CONFIG}: {str(name)[:60]!r} is no graph's name", hint=COMPILE
            )
        if not _filled(folder / f"{name}.rbln"):
            raise LoadFailed(
                f"{folder} lacks {name}.rbln, or it is empty",
                hint=f"copy the whole folder again; {COMPILE}",
            )
    return graphs


def _filled(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _batches(sizes: object, batch: int) -> tuple[int, ...]:
    if not isinstance(sizes, list):
        return (batch,)
    return tuple(sorted({n for n in sizes if type(n) is int and 0 < n <= batch} | {batch}))


def _devices(config: dict[str, Any], graphs: list[dict[str, Any]], folder: Path) -> int:
    """As vllm-rbln counts them: the model's own figure, else that of the first graph that has one, else one."""
    for fields in (config, *graphs):
        if fields.get("num_devices") is not None:
            return _size(fields, "num_devices", folder)
    return 1


def _size(fields: dict[str, Any], name: str, folder: Path) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 32:
        raise LoadFailed(
            f"{folder / CONFIG}: {name} is {str(value)[:60]!r}, not a size",
            hint=f"only text models are served from here; {COMPILE}",
        )
    return value


def _first_text(entries: list[dict[str, Any]], name: str) -> str:
    texts = (fields.get(name) for fields in entries)
    return next((text[:100] for text in texts if isinstance(text, str) and text), "")
