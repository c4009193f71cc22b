"""What an engine is told is the slot, what its node adds, and what its text knows; and where its weights and bundles lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.dataplane import ByteText, a_slot

from actors.engine_config import Place, engine_config
from actors.errors import ModelError, ModelMissing
from actors.slot import SlotSpec, StageSpec
from actors.untold_text import UntoldText
from actors.weights import artifact_path, load_text, local_tuning, model_path
from placement.tuning import Tuning


def configured(slot: SlotSpec, **place: object):
    return engine_config(slot, ByteText(), Place(**place), window=100)


def test_the_plan_the_node_and_the_text_come_together() -> None:
    slot = a_slot(threads=2, concurrency=3, kv_bytes=9, dtype="fp32", memory_bytes=7)
    config = configured(slot, model_path="/m", cores=(4, 5), owner="o", artifact="/m/a.fxb")
    assert (config.model, config.model_path, config.artifact) == ("tiny", "/m", "/m/a.fxb")
    assert (config.threads, config.cores, config.max_sequences) == (2, (4, 5), 3)
    assert (config.window, config.kv_bytes, config.memory_bytes, config.dtype) == (
        100,
        9,
        7,
        "fp32",
    )
    assert (config.eos_ids, config.facts) == (ByteText.eos_ids, ByteText.facts)


def test_an_engine_sees_exactly_the_devices_of_all_its_stages_on_its_node() -> None:
    stages = (
        StageSpec(node="n", handles=("A", "B"), layers=(0, 4)),
        StageSpec(node="n", handles=("C", "D"), layers=(4, 8)),
        StageSpec(node="m", handles=("E", "F"), layers=(8, 9)),
    )
    slot = a_slot(family="nvidia", handles=("A", "B"), stages=stages, nodes=("n", "n", "m"), tp=2)
    config = configured(slot, hosts=("1.1.1.1", "1.1.1.1", "2.2.2.2"), meeting_port=99)
    assert dict(config.environment)["CUDA_VISIBLE_DEVICES"] == "A,B,C,D"
    assert [stage.host for stage in config.stages] == ["1.1.1.1", "1.1.1.1", "2.2.2.2"]
    assert config.meeting_port == 99


def test_one_stage_is_no_pipeline() -> None:
    stage = StageSpec(node="n", handles=(), layers=(0, 8))
    assert configured(a_slot(stages=(stage,))).stages == ()


def test_words_are_for_the_emulated_engine_only() -> None:
    assert configured(a_slot()).word_ids == ()
    assert configured(a_slot(emulated=True)).word_ids


def test_an_endpoint_is_found_by_its_handle_or_below_it_by_the_source() -> None:
    root = "https://h.example/v1"
    slot = a_slot(family="remote", handles=(root,))
    assert configured(slot).endpoint == root
    hosted = replace(slot, source=f"openai+{root}/some-model")
    assert configured(hosted).endpoint == f"openai+{root}/some-model"
    assert configured(a_slot(family="nvidia", handles=("GPU-1",))).endpoint == ""


def test_an_endpoint_and_a_declared_device_need_no_weights() -> None:
    assert model_path(a_slot(emulated=True)) == ""
    assert model_path(a_slot(family="remote", handles=("https://h/v1",))) == ""
    assert model_path(a_slot(source="openai+https://h/v1/m")) == ""


def test_weights_in_no_form_that_the_engine_reads_name_the_command(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    slot = a_slot(source=f"file://{tmp_path}", engine="onnxruntime", dtype="fp32")
    with pytest.raises(ModelMissing) as missing:
        model_path(slot)
    assert missing.value.hint.startswith("shardyard prepare")


def test_a_model_that_only_an_endpoint_knows_has_a_text_without_ids() -> None:
    text = load_text(a_slot(tokenizer="openai+https://h/v1/m", window=77))
    assert isinstance(text, UntoldText)
    assert text.window == 77


def test_adapters_become_paths_of_this_node(tmp_path: Path) -> None:
    wanted = Tuning(kv_dtype="fp8", lora=(("fr", f"file://{tmp_path}"),))
    tuning = local_tuning(a_slot(tuning=wanted))
    assert tuning == Tuning(kv_dtype="fp8", lora=(("fr", str(tmp_path)),))
    assert configured(a_slot(tuning=wanted), tuning=tuning).tuning == tuning
    for source in (f"file://{tmp_path}/none", "hf://org/adapter"):
        with pytest.raises(ModelMissing, match="adapter fr"):
            local_tuning(a_slot(tuning=Tuning(lora=(("fr", source),))))


def test_one_bundle_beside_the_weights_is_taken_and_two_are_refused(tmp_path: Path) -> None:
    assert artifact_path("") == artifact_path(str(tmp_path)) == ""
    (tmp_path / "a.fxb").touch()
    assert artifact_path(str(tmp_path)) == str(tmp_path / "a.fxb")
    (tmp_path / "b.fxb").touch()
    with pytest.raises(ModelError, match="2 bundles"):
        artifact_path(str(tmp_path))
