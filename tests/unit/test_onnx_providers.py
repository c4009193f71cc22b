"""Which execution provider a replica gets, and that nothing falls back to the CPU unseen."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.engines import engine_config

from actors.engine import StagePlace, Tuning
from actors.errors import LoadFailed
from actors.onnx.providers import FAMILIES, choose, named
from actors.onnx.session import CPU, _check_work, available_providers
from actors.vendors import families

CUDA = "CUDAExecutionProvider"


def test_the_cpu_is_served_by_its_own_provider() -> None:
    provider = choose(engine_config(), {CPU, "OpenVINOExecutionProvider"})
    assert (provider.name, provider.kv, provider.exact) == (CPU, "host", True)
    assert choose(engine_config(family="cpu"), {CPU}) == provider


@pytest.mark.parametrize(
    ("family", "available", "name", "kv"),
    [
        ("nvidia", {CPU, CUDA}, CUDA, "slots"),
        ("nvidia", {CPU, "DmlExecutionProvider"}, "DmlExecutionProvider", "whole"),
        ("amd", {CPU, "MIGraphXExecutionProvider"}, "MIGraphXExecutionProvider", "host"),
        ("intel-gpu", {CPU, "OpenVINOExecutionProvider"}, "OpenVINOExecutionProvider", "host"),
        ("intel-npu", {CPU, "OpenVINOExecutionProvider"}, "OpenVINOExecutionProvider", "host"),
        ("qualcomm", {CPU, "QNNExecutionProvider"}, "QNNExecutionProvider", "host"),
        ("apple", {CPU, "CoreMLExecutionProvider"}, "CoreMLExecutionProvider", "host"),
        ("ascend", {CPU, "CANNExecutionProvider"}, "CANNExecutionProvider", "slots"),
    ],
)
def test_each_family_has_its_provider(family: str, available: set[str], name: str, kv: str) -> None:
    provider = choose(engine_config(family=family), available)
    assert (provider.name, provider.kv) == (name, kv)
    assert not provider.exact


@pytest.mark.parametrize(
    ("family", "package"),
    [
        ("nvidia", "onnxruntime-gpu"), ("amd", "onnxruntime-migraphx"), ("qualcomm", "onnxruntime-qnn"),
        ("intel-gpu", "onnxruntime-ep-openvino"), ("intel-npu", "onnxruntime-ep-openvino"),
    ],
)  # fmt: skip
def test_a_provider_that_is_missing_is_an_error_that_names_its_package(
    family: str, package: str
) -> None:
    with pytest.raises(LoadFailed, match="is not installed") as failure:
        choose(engine_config(family=family), {CPU, "AzureExecutionProvider"})
    assert failure.value.hint == f"pip install {package}"


def test_tensorrt_comes_only_when_asked_for_and_with_cuda_beside_it() -> None:
    available = {CPU, CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"}
    config = engine_config(family="nvidia")
    assert choose(config, available).key == "cuda"
    asked = replace(config, tuning=Tuning(attention_backend="tensorrt"))
    provider = choose(asked, available)
    assert provider.name == "TensorrtExecutionProvider"
    assert named(provider.beside).name == CUDA
    with pytest.raises(LoadFailed, match=r"Tensorrt.* is not installed"):
        choose(asked, {CPU, CUDA})


def test_a_provider_that_does_not_exist_for_the_devices() -> None:
    config = engine_config(family="amd", tuning=Tuning(attention_backend="tensorrt"))
    with pytest.raises(LoadFailed, match="no execution provider for amd") as failure:
        choose(config, {CPU})
    assert "migraphx" in failure.value.hint


def test_a_family_without_any() -> None:
    with pytest.raises(LoadFailed, match="'furiosa'"):
        choose(engine_config(family="furiosa"), {CPU})


def test_several_devices_are_refused() -> None:
    for config in (
        engine_config(family="nvidia", tp=2),
        engine_config(
            stages=tuple(StagePlace(host="a", handles=(), layers=(n, n + 1)) for n in (0, 1))
        ),
    ):
        with pytest.raises(LoadFailed, match="on one device, not on 2"):
            choose(config, {CPU, CUDA})


def test_options_get_the_planned_threads() -> None:
    config = engine_config(threads=3, tuning=Tuning(attention_backend="openvino"))
    provider = choose(config, {"OpenVINOExecutionProvider"})
    assert provider.filled(config) == {"num_of_threads": "3"}
    assert provider.filled(replace(config, threads=0)) == {}
    assert named("cuda").filled(config)["device_id"] == "0"


def test_the_table_names_families_that_exist_and_keys_once_each() -> None:
    assert set(FAMILIES) - {"cpu"} <= set(families())
    for rows in FAMILIES.values():
        keys = [row.key for row in rows]
        assert len(set(keys)) == len(keys)
        assert all(row.hardware for row in rows if row.plugin)


def test_this_node_has_at_least_the_cpu() -> None:
    assert CPU in available_providers()


def _session(providers: list[str], work: dict[str, list[str]]) -> Any:
    """What a session tells of itself, as far as it is asked."""
    parts = [
        SimpleNamespace(
            ep_name=name, get_nodes=lambda ops=ops: [SimpleNamespace(op_type=op) for op in ops]
        )
        for name, ops in work.items()
    ]
    return SimpleNamespace(
        get_providers=lambda: providers, get_provider_graph_assignment_info=lambda: parts
    )


def test_a_provider_that_did_not_start_is_no_success() -> None:
    with pytest.raises(LoadFailed, match="CUDAExecutionProvider did not start"):
        _check_work(_session([CPU], {}), named("cuda"))


def test_work_that_is_left_to_the_cpu_is_counted() -> None:
    work = {CUDA: ["MatMul"], CPU: ["GroupQueryAttention", "GroupQueryAttention", "Shape"]}
    with pytest.raises(LoadFailed, match="to the CPU: 2 GroupQueryAttention"):
        _check_work(_session([CUDA, CPU], work), named("cuda"))
    _check_work(_session([CUDA, CPU], {CUDA: ["MatMul"], CPU: ["Shape", "Gather"]}), named("cuda"))
