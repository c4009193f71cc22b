"""The catalog is complete, sourced and sane; engines drive what they should."""

from __future__ import annotations

import pytest

from placement.catalog import EMULATED, catalog, engines, engines_for, layout_engine
from placement.devices import Kind
from placement.units import GIB

NAMES = [
    "NVIDIA_H100_80G",
    "NVIDIA_H200_141G",
    "NVIDIA_A100_40G",
    "NVIDIA_A100_80G",
    "NVIDIA_A40_48G",
    "NVIDIA_L4_24G",
    "NVIDIA_L40S_48G",
    "NVIDIA_T4_16G",
    "NVIDIA_V100_16G",
    "NVIDIA_V100_32G",
    "NVIDIA_H100_NVL_94G",
    "NVIDIA_H100_PCIE_80G",
    "NVIDIA_H20_96G",
    "NVIDIA_B200_180G",
    "NVIDIA_GB200_186G",
    "NVIDIA_A100_PCIE_80G",
    "NVIDIA_A800_80G",
    "NVIDIA_A30_24G",
    "NVIDIA_A10_24G",
    "NVIDIA_A10G_24G",
    "NVIDIA_L40_48G",
    "NVIDIA_L20_48G",
    "NVIDIA_RTX_PRO_6000_BLACKWELL_96G",
    "NVIDIA_RTX_PRO_6000_BLACKWELL_MAX_Q_96G",
    "NVIDIA_RTX_6000_ADA_48G",
    "NVIDIA_RTX_A6000_48G",
    "NVIDIA_RTX_5090_32G",
    "NVIDIA_RTX_5090D_32G",
    "NVIDIA_RTX_4090_24G",
    "NVIDIA_RTX_4090D_24G",
    "NVIDIA_RTX_3090_24G",
    "AMD_MI300X_192G",
    "AMD_MI355X_288G",
    "AMD_MI350X_288G",
    "AMD_MI325X_256G",
    "AMD_MI308X_192G",
    "AMD_MI300A_128G",
    "AMD_MI250_64G",
    "AMD_MI210_64G",
    "AMD_MI100_32G",
    "AMD_RX7900XTX_24G",
    "AMD_RX7800XT_16G",
    "AMD_W7900_48G",
    "INTEL_GAUDI2_96G",
    "INTEL_GAUDI3_128G",
    "INTEL_ARC_B580_12G",
    "INTEL_NPU_METEOR_LAKE",
    "INTEL_NPU_ARROW_LAKE",
    "INTEL_NPU_LUNAR_LAKE",
    "INTEL_ARC_A770_16G",
    "INTEL_ARC_PRO_B60_24G",
    "INTEL_ARC_PRO_B50_16G",
    "INTEL_FLEX170_16G",
    "INTEL_MAX1550_128G",
    "INTEL_MAX1100_48G",
    "INTEL_NPU_PANTHER_LAKE",
    "TENSTORRENT_N150_12G",
    "TENSTORRENT_N300_24G",
    "TENSTORRENT_GALAXY_WORMHOLE_12G",
    "TENSTORRENT_P100_28G",
    "TENSTORRENT_P150_32G",
    "TENSTORRENT_P300_32G",
    "TPU_V4_32G",
    "TPU_V5E_16G",
    "TPU_V5P_95G",
    "TPU_V6E_32G",
    "TPU_V7_192G",
    "UPMEM_RANK",
    "RBLN_ATOM",
    "RBLN_ATOM_PLUS",
    "RBLN_ATOM_MAX",
    "RBLN_REBEL_QUAD",
    "FURIOSA_RNGD",
    "FURIOSA_RNGD_PLUS",
    "FURIOSA_WARBOY",
    "ASCEND_910B2_64G",
    "ASCEND_910B3_64G",
    "ASCEND_910B4_32G",
    "ASCEND_910B4_64G",
    "ASCEND_910C_DIE_64G",
    "ASCEND_310P_24G",
    "ASCEND_310P_48G",
    "QUALCOMM_CLOUD_AI_100_16G",
    "QUALCOMM_HEXAGON_X_ELITE",
    "SAMSUNG_HBM_PIM",
    "SKHYNIX_AIM",
    "CPU",
    "CPU_AVX2",
    "CPU_AVX512",
    "CPU_AMX",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_class_has_figures_and_a_source(name: str) -> None:
    known = catalog()[name]
    assert known.source
    assert known.flops
    assert known.bandwidth_bytes_per_s > 1e9
    assert 0 < known.bandwidth_efficiency <= 1
    assert 0 < known.flops_efficiency <= 1
    assert 0 < known.idle_w < known.power_w
    assert known.memory_bytes > 0 or known.kind is Kind.CPU


_KEYS = {
    "gib",
    "gbyte_per_s",
    "cap_gbyte_per_s",
    "tflops",
    "watts",
    "link_gbyte_per_s",
}


@pytest.mark.parametrize("name", NAMES)
def test_figures_that_nobody_read_in_a_source_are_marked_one_by_one(name: str) -> None:
    known = catalog()[name]
    assert set(known.recalled) <= _KEYS
    if "recalled" in known.source or "derived" in known.source:
        assert known.recalled


def test_the_table_names_every_class_of_the_catalog() -> None:
    assert sorted(NAMES) == sorted(catalog())


def test_an_engine_that_drives_one_class_of_a_pair_leaves_the_others_alone() -> None:
    assert "vllm" not in [
        e.name for e in engines_for(catalog()["INTEL_NPU_LUNAR_LAKE"], emulated=False)
    ]
    for name in ("INTEL_GAUDI2_96G", "INTEL_GAUDI3_128G"):
        assert [e.name for e in engines_for(catalog()[name], emulated=False)] == ["vllm"]
    assert engines_for(catalog()["FURIOSA_WARBOY"], emulated=False) == ()


def test_usable_memory_is_less_than_nominal_by_the_stated_reserve() -> None:
    assert catalog()["NVIDIA_H100_80G"].memory_bytes == 72 * GIB
    assert catalog()["RBLN_ATOM"].memory_bytes == int((16 - 288 / 1024) * 0.95 * GIB)


def test_a_card_of_four_dies_is_four_devices() -> None:
    assert catalog()["RBLN_ATOM_MAX"].memory_bytes == catalog()["RBLN_ATOM"].memory_bytes


@pytest.mark.parametrize("name", NAMES)
def test_only_the_emulated_engine_runs_on_declared_devices(name: str) -> None:
    known = catalog()[name]
    assert [e.name for e in engines_for(known, emulated=True)] == [EMULATED]
    assert EMULATED not in [e.name for e in engines_for(known, emulated=False)]


def test_the_emulated_engine_keeps_the_layout_limits_of_the_real_one() -> None:
    (stand_in,) = engines_for(catalog()["FURIOSA_RNGD"], emulated=True)
    assert (stand_in.tp, stand_in.pp) == (engines()["furiosa"].tp, engines()["furiosa"].pp)
    (stand_in,) = engines_for(catalog()["SAMSUNG_HBM_PIM"], emulated=True)
    assert (stand_in.tp, stand_in.pp) == ((1,), 1)


def test_what_no_engine_drives_has_no_layout_engine() -> None:
    assert layout_engine(catalog()["FURIOSA_WARBOY"]) is None
    assert next(e.name for e in engines_for(catalog()["CPU_AVX512"], emulated=False)) == "openvino"
