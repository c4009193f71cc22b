"""Folders of compiled models for Rebellions' devices, spoilt ones too, and what they and a plan must agree on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.engines import engine_config
from support.npu_artifacts import write_compiled, write_model

from actors.compiled_rbln import CONFIG, CONFIG_BYTES, npu_family, read_compiled
from actors.engine import EngineConfig, StagePlace, Tuning
from actors.engines.rbln import RblnServer, families_of
from actors.errors import LoadFailed
from actors.server.endings import Ended, meaning
from actors.server.launch import launch

SERVER = RblnServer()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "compiled")
    (tmp_path / "compiled" / "model.safetensors").unlink()
    return write_compiled(tmp_path / "compiled")


def config_of(folder: Path, **changes: Any) -> EngineConfig:
    fields: dict[str, Any] = {
        "artifact": str(folder), "device_class": "RBLN_ATOM_MAX", "tp": 2, "handles": ("0", "1"),
        "window": 4096, "max_sequences": 4, "environment": (("RBLN_VISIBLE_DEVICES", "0,1"),),
    }  # fmt: skip
    return engine_config(**fields | changes)


def spoil(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_tells_its_sizes(folder: Path) -> None:
    model = read_compiled(folder)
    assert (model.batch, model.window, model.batches, model.devices) == (4, 4096, (1, 4), 2)
    assert (model.npu, model.version, model.pickles) == ("RBLN-CA25", "0.12.0", ())


def test_what_is_left_out_has_the_vendors_defaults(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    for graph in config["_compile_cfgs"]:
        graph |= {"npu": None, "num_devices": None}
    spoil(folder, _compile_cfgs=config["_compile_cfgs"], decoder_batch_sizes=None)
    model = read_compiled(folder)
    assert (model.devices, model.npu, model.batches) == (1, "", (4,))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": None}, {"batch_size": 0}, {"batch_size": "4"}, {"batch_size": True},
        {"max_seq_len": None}, {"max_seq_len": 1 << 40}, {"num_devices": -1}, {"_meta": {}},
        {"_compile_cfgs": None}, {"_compile_cfgs": []}, {"_compile_cfgs": [1]}, {"_compile_cfgs": [{}]},
        {"_compile_cfgs": [{"compiled_model_name": "../../etc/passwd"}]},
        {"_compile_cfgs": [{"compiled_model_name": "x" * 300}]},
        {"_compile_cfgs": [{"compiled_model_name": "a\0b"}]},
        {"_compile_cfgs": [{"compiled_model_name": "prefill"}] * 2000},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_refused(
    folder: Path, changes: dict[str, Any]
) -> None:
    spoil(folder, **changes)
    with pytest.raises(LoadFailed) as failed:
        read_compiled(folder)
    assert str(folder) in str(failed.value)
    assert "optimum-rbln" in failed.value.hint


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff\xfe\x00", b"[" * 200_000, b" " * (CONFIG_BYTES + 1)], ids=len
)
def test_a_torn_configuration_is_refused(folder: Path, text: bytes) -> None:
    (folder / CONFIG).write_bytes(text)
    with pytest.raises(LoadFailed, match=CONFIG):
        read_compiled(folder)


def test_a_folder_without_it_is_no_compiled_model(folder: Path) -> None:
    (folder / CONFIG).unlink()
    with pytest.raises(LoadFailed, match="no compiled model"):
        read_compiled(folder)
    (folder / CONFIG).mkdir()
    with pytest.raises(LoadFailed, match="cannot be read"):
        read_compiled(folder)


@pytest.mark.parametrize("how", ["missing", "empty", "a folder", "a pipe"])
def test_every_graph_must_be_there(folder: Path, how: str) -> None:
    graph = folder / "decoder_batch_4.rbln"
    graph.unlink()
    if how == "empty":
        graph.touch()
    elif how == "a folder":
        graph.mkdir()
    elif how == "a pipe":
        os.mkfifo(graph)
    with pytest.raises(LoadFailed, match=r"lacks decoder_batch_4\.rbln"):
        read_compiled(folder)


def test_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBLN_DEVICES", "7")
    monkeypatch.setenv("VLLM_RBLN_USE_VLLM_MODEL", "1")
    planned = launch(SERVER, config_of(folder), Path("/env/bin/python"), {})
    for name in ("w", "t", "."):
        planned.folder.joinpath(name).rmdir()
    said = " ".join(planned.argv)
    assert f" --model {folder} " in said
    assert f" --uds {planned.socket} " in said
    assert " --max-model-len 4096 --max-num-seqs 4 " in said
    assert "--tokenizer" not in said
    assert planned.environment["RBLN_VISIBLE_DEVICES"] == "0,1"
    assert not {"RBLN_DEVICES", "VLLM_RBLN_USE_VLLM_MODEL"} & set(planned.environment)


def test_the_tokenizer_may_lie_with_the_model(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(LoadFailed, match="no tokenizer"):
        SERVER.values(config_of(folder))
    model = str(write_model(tmp_path / "model"))
    assert SERVER.values(config_of(folder, model_path=model))["tokenizer"] == model


@pytest.mark.parametrize(
    ("changes", "says", "hint"),
    [
        ({"window": 8192}, "8192 planned, and .* compiled for 4096", "max_seq_len=8192"),
        ({"max_sequences": 5}, "5 planned, and .* compiled for 4", "batch_size=5"),
        ({"tp": 4, "handles": ("0", "1", "2", "3")}, "compiled for 2 devices, planned are 4", "tp: 2"),
        ({"handles": ("0",)}, "planned are 2, given 1", "tp: 2"),
        ({"device_class": "RBLN_ATOM"}, "compiled for RBLN-CA25 and the devices are RBLN_ATOM", "RBLN-CA0"),
        ({"device_class": "RBLN_REBEL_QUAD"}, "the devices are RBLN_REBEL_QUAD", "RBLN-CR"),
        ({"artifact": ""}, "compiled models only", "optimum-rbln"),
        ({"tuning": Tuning(lora=(("a", "/a"),))}, "fixed when a model is compiled", "optimum-rbln"),
        ({"stages": (StagePlace(host="h", handles=("0",), layers=(0, 1)),)}, "no pipelines", "num_devices"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_plan_and_model_must_agree(
    folder: Path, changes: dict[str, Any], says: str, hint: str
) -> None:
    with pytest.raises(LoadFailed, match=says) as failed:
        SERVER.values(config_of(folder, **changes))
    assert hint in failed.value.hint


@pytest.mark.parametrize(
    "device_class", ["RBLN_ATOM_MAX", "RBLN_ATOM_PLUS", "REBELLIONS_CA99_16G", "CPU_X"]
)
def test_one_family_in_any_form_factor_fits(folder: Path, device_class: str) -> None:
    assert SERVER.values(config_of(folder, device_class=device_class))["compiled"] == str(folder)


def test_families() -> None:
    assert [npu_family(n) for n in ("RBLN-CA12", "RBLN-CA22", "RBLN-CA25", "RBLN-CR03")] == [
        "RBLN-CA1", "RBLN-CA2", "RBLN-CA2", "RBLN-CR0",
    ]  # fmt: skip
    assert families_of("RBLN_ATOM_PLUS") == {"RBLN-CA1", "RBLN-CA2"}


def test_pickles_beside_the_graphs_are_refused_unless_asked_for(folder: Path) -> None:
    (folder / "torch_artifacts.pth").write_bytes(b"pickle")
    with pytest.raises(LoadFailed, match=r"torch_artifacts\.pth"):
        SERVER.values(config_of(folder))
    assert SERVER.values(config_of(folder, tuning=Tuning(allow_pickle=True)))


def test_its_limits_are_data(folder: Path) -> None:
    limits = SERVER.capabilities(config_of(folder, window=2048, max_sequences=3))
    assert (limits.window, limits.sequences) == (2048, 3)
    assert (limits.batch_buckets, limits.length_buckets) == ((1, 4), (4096,))
    assert limits.ids_in and limits.ids_out and limits.penalties and limits.json_schema
    assert not (limits.seed or limits.exact)
    assert limits.continuation == "coherent"


FATAL = (
    '{"event":"rbln.worker.fatal","schema_version":1,"where":"execute_model","exception_type":"RuntimeError",'
    '"exception_message":"SYS_TASK_ABORTED","exit_code":70,"cause":"unknown"}'
)


@pytest.mark.parametrize(
    ("status", "line", "reason"),
    [
        (1, FATAL, "a worker of vllm-rbln gave up"),
        (70, "", "a worker of vllm-rbln gave up"),
        (1, "ModuleNotFoundError: No module named 'rebel'", "compiler and runtime are not in its environment"),
        (1, "ValueError: Unexpected arguments: dict_keys(['x'])", "another release"),
        (1, "FileNotFoundError: Expected RBLN compiled model 'prefill.rbln' not found at '/m'", "not whole"),
        (1, "ValueError: Device 0 (RBLN-CA25) is not on the same NPU as RBLN-CA12.", "not those"),
        (1, "Failed to create RBLN runtime: x", "cannot be opened"),
        (1, "ModuleNotFoundError: No module named 'vllm'", "environment is not whole"),
    ],
)  # fmt: skip
def test_endings_are_told_apart(status: int, line: str, reason: str) -> None:
    said, hint = meaning(Ended(status=status, lines=("INFO: starting", line)), SERVER.endings)
    assert reason in said
    assert hint
