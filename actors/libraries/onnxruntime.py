"""ONNX Runtime: which hardware it sees and which of its providers would run there. Imports nothing of ours.

Vendors' providers that come as plug-ins are registered first, where their packages are installed.
"""

import importlib
import importlib.util
from typing import Any

MODULE = "onnxruntime"
KEEP = False

PLUGINS = {"QNNExecutionProvider": "onnxruntime_qnn"}
"""Provider -> the package that brings it, with `get_library_path()`."""


def answer(question: str) -> object:
    """`devices` is the only question. What a release does not have is left out; `errors` says what failed.

    Raises:
        ValueError: another question.
    """
    if question != "devices":
        raise ValueError(question)
    runtime: Any = importlib.import_module(MODULE)
    errors: list[str] = []
    for provider, package in PLUGINS.items():
        _register(runtime, provider, package, errors)
    return {
        "version": getattr(runtime, "__version__", None),
        "providers": _tried(errors, lambda: list(runtime.get_available_providers())) or [],
        "hardware": _tried(errors, lambda: [_hardware(d) for d in _all_hardware(runtime)]) or [],
        "offers": _tried(errors, lambda: [_offer(d) for d in runtime.get_ep_devices()]) or [],
        "errors": errors,
    }


def _register(runtime: Any, provider: str, package: str, errors: list[str]) -> None:
    if importlib.util.find_spec(package) is None:
        return
    library = _tried(errors, lambda: importlib.import_module(package).get_library_path())
    _tried(errors, lambda: runtime.register_execution_provider_library(provider, library))


def _all_hardware(runtime: Any) -> Any:
    """Exported at the top in some releases, only by the binding itself in others."""
    if hasattr(runtime, "get_hardware_devices"):
        return runtime.get_hardware_devices()
    binding: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return binding.get_hardware_devices()


def _hardware(device: Any) -> dict[str, object]:
    return {
        "type": str(device.type).rpartition(".")[2],
        "vendor_id": device.vendor_id,
        "device_id": device.device_id,
        "vendor": device.vendor,
        "metadata": {str(k): str(v) for k, v in dict(device.metadata).items()},
    }


def _offer(offered: Any) -> dict[str, object]:
    return {"provider": offered.ep_name, **_hardware(offered.device)}


def _tried(errors: list[str], call: Any) -> Any:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - whatever a release or a plug-in raises
        errors.append(f"{type(error).__name__}: {error}"[:200])
        return None
