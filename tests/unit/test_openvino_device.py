"""Which OpenVINO device is taken for a planned shard, and what it is told."""

from __future__ import annotations

from typing import Any

import pytest
from support.engines import engine_config

from actors.errors import LoadFailed
from actors.openvino.device import EXACT, device_of, properties, single_properties


def config(family: str = "", *handles: str, **changes: Any) -> Any:
    fields: dict[str, Any] = {"arithmetic": "fast", "family": family, "handles": handles}
    return engine_config(**fields | changes)


@pytest.mark.parametrize(
    ("family", "handles", "listed", "device"),
    [
        ("", (), ["CPU"], "CPU"),
        ("", (), ["CPU", "GPU", "NPU"], "CPU"),
        ("intel-gpu", ("0",), ["CPU", "GPU"], "GPU"),
        ("intel-gpu", ("3",), ["CPU", "GPU", "NPU"], "GPU"),
        ("intel-gpu", ("1",), ["CPU", "GPU.0"], "GPU.0"),
        ("intel-npu", ("NPU",), ["CPU", "GPU", "NPU"], "NPU"),
    ],
)
def test_the_planned_device_is_taken(
    family: str, handles: tuple[str, ...], listed: list[str], device: str
) -> None:
    assert device_of(config(family, *handles), listed) == device


@pytest.mark.parametrize(
    ("family", "handle", "package"),
    [("intel-gpu", "0", "intel-opencl-icd"), ("intel-npu", "NPU", "intel-level-zero-npu")],
)
def test_a_device_that_is_not_listed_is_never_replaced(
    family: str, handle: str, package: str
) -> None:
    with pytest.raises(LoadFailed, match="OpenVINO lists no") as refused:
        device_of(config(family, handle), ["CPU"])
    assert package in refused.value.hint
    assert "shardyard doctor" in refused.value.hint


def test_one_of_several_gpus_is_never_guessed() -> None:
    with pytest.raises(LoadFailed, match=r"GPU\.0, GPU\.1.*intel-gpu 1 cannot be told") as refused:
        device_of(config("intel-gpu", "1"), ["CPU", "GPU.0", "GPU.1"])
    assert "ZE_AFFINITY_MASK" in refused.value.hint
    assert "intel-opencl-icd" in refused.value.hint


@pytest.mark.parametrize(
    ("handle", "listed"), [("NPU.1", ["CPU", "NPU"]), ("NPU", ["NPU.3720", "NPU.4000"])]
)
def test_one_of_several_npus_is_never_guessed(handle: str, listed: list[str]) -> None:
    with pytest.raises(LoadFailed, match="cannot be told") as refused:
        device_of(config("intel-npu", handle), listed)
    assert "only NPU" in refused.value.hint


def test_several_devices_are_too_many() -> None:
    with pytest.raises(LoadFailed, match="one device, and 2 were planned: 0, 1"):
        device_of(config("intel-gpu", "0", "1"), ["CPU", "GPU.0", "GPU.1"])


def test_another_vendors_device_is_refused() -> None:
    with pytest.raises(LoadFailed, match="does not drive devices of nvidia") as refused:
        device_of(config("nvidia", "GPU-1"), ["CPU"])
    assert refused.value.hint


@pytest.mark.parametrize("family", ["intel-gpu", "intel-npu"])
def test_exact_arithmetic_is_a_processors_alone(family: str) -> None:
    with pytest.raises(LoadFailed, match="no exact arithmetic on") as refused:
        device_of(config(family, arithmetic="exact"), ["CPU", "GPU", "NPU"])
    assert "arithmetic: fast" in refused.value.hint
    assert device_of(config(arithmetic="exact"), ["CPU"]) == "CPU"


def test_threads_and_exactness_are_told_to_processors_only() -> None:
    fast, exact = config(threads=3), config(threads=3, arithmetic="exact")
    assert properties(fast, "CPU") == {"INFERENCE_NUM_THREADS": 3}
    assert properties(exact, "CPU") == {"INFERENCE_NUM_THREADS": 3} | EXACT
    assert properties(config(threads=0), "CPU") == {}
    assert properties(fast, "GPU") == {}


@pytest.mark.parametrize(("window", "longest"), [(1024, 1024), (1000, 1024), (64, 64), (65, 128)])
def test_an_npus_prompt_may_fill_the_window(window: int, longest: int) -> None:
    told = single_properties(config("intel-npu", window=window, threads=4), "NPU")
    assert told == {"MAX_PROMPT_LEN": longest, "MIN_RESPONSE_LEN": 128}
