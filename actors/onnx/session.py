"""Opens an ONNX Runtime session on a checked graph, on one execution provider and nothing else.

Decides session options, and that a provider really took the work: what it leaves to the CPU is counted. It must not know
sequences.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from typing import Any

from ..engine import EngineConfig
from ..errors import LoadFailed
from .graph import DecoderGraph
from .providers import FAMILIES, Provider, named

CPU = "CPUExecutionProvider"
HEAVY = frozenset(
    ("GroupQueryAttention", "MatMul", "MatMulNBits", "Gemm", "FusedMatMul", "MatMulInteger")
)
"""Operators that are the work of a decoder; the few about shapes always run on the CPU."""

_FOLDER = "session.model_external_initializers_file_folder_path"
_RECORD = "session.record_ep_graph_assignment_info"
_registered: set[str] = set()
"""Plugins whose library the process has; ONNX Runtime takes each once."""

_FATAL = 3
"""Log level from which the library prints: errors."""


def available_providers() -> frozenset[str]:
    """Names of the providers that can be loaded: built into the library, or as a plugin's package."""
    import onnxruntime

    plugins = {
        row.name
        for rows in FAMILIES.values()
        for row in rows
        if row.plugin and importlib.util.find_spec(row.plugin) is not None
    }
    return frozenset(onnxruntime.get_available_providers()) | plugins


def open_session(graph: DecoderGraph, config: EngineConfig, provider: Provider) -> Any:
    """A session on the provider.

    Raises:
        LoadFailed: the provider has no device here, does not take the graph, or leaves its work to the CPU.
    """
    import onnxruntime

    options = _options(onnxruntime, graph, config, provider)
    given: dict[str, Any] = {}
    if provider.plugin:
        options.add_provider_for_devices(_devices(onnxruntime, provider), provider.filled(config))
    else:
        rows = [provider, *([named(provider.beside)] if provider.beside else [])]
        providers: list[Any] = [(row.name, row.filled(config)) for row in rows]
        given["providers"] = providers if provider.name == CPU else [*providers, CPU]
    try:
        session = onnxruntime.InferenceSession(graph.data, options, **given)
    except Exception as error:
        raise LoadFailed(
            f"ONNX Runtime does not load the graph on {provider.name}: {first_line(error)}",
            hint="make the form again on this node's version: shardyard prepare SOURCE --form onnx",
        ) from error
    _check_work(session, provider)
    return session


def _options(
    onnxruntime: Any, graph: DecoderGraph, config: EngineConfig, provider: Provider
) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    # It keeps a plan for each shape, and the mask has another one in each step.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(_FOLDER, str(graph.folder))
    if provider.name != CPU:
        options.add_session_config_entry(_RECORD, "1")
    for library in graph.libraries:
        options.register_custom_ops_library(str(library))
    return options


def _devices(onnxruntime: Any, provider: Provider) -> list[Any]:
    """The plugin's first device of the wanted kind, once its library is registered."""
    package = importlib.import_module(provider.plugin)
    try:
        if provider.plugin not in _registered:
            library = package.get_library_path()
            onnxruntime.register_execution_provider_library(provider.key, library)
            _registered.add(provider.plugin)
    except Exception as error:
        raise LoadFailed(
            f"the plugin {provider.package} does not load: {first_line(error)}",
            hint=f"pip install --upgrade {provider.package} onnxruntime",
        ) from error
    found = [
        device
        for device in onnxruntime.get_ep_devices()
        if device.ep_name == provider.name and device.device.type.name == provider.hardware
    ]
    if not found:
        raise LoadFailed(
            f"the plugin {provider.package} finds no {provider.hardware} that it supports here",
            hint="check the device with shardyard doctor, or name another engine in the spec",
        )
    return found[:1]


def _check_work(session: Any, provider: Provider) -> None:
    if provider.name == CPU:
        return
    if provider.name not in session.get_providers():
        raise LoadFailed(
            f"{provider.name} did not start; the session has {', '.join(session.get_providers())}",
            hint=f"check the driver with shardyard doctor, then pip install {provider.package}",
        )
    left = left_to_cpu(session)
    if left:
        work = ", ".join(f"{count} {operator}" for operator, count in left.most_common(4))
        raise LoadFailed(
            f"{provider.name} leaves work of this graph to the CPU: {work}",
            hint="name another engine in the spec, or build the form for this provider",
        )


def left_to_cpu(session: Any) -> Counter[str]:
    """The heavy operators that run on the CPU, counted."""
    return Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == CPU
        for node in part.get_nodes()
        if node.op_type in HEAVY
    )


def first_line(error: BaseException) -> str:
    """The first line of what a native library says, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
