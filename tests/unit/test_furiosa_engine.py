"""Bundles of FuriosaAI's as files, torn and hostile ones too, and what they and a plan must agree on."""

from __future__ import annotations

import io
import json
import resource
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.engines import engine_config
from support.npu_artifacts import manifest, write_bundle, write_model

from actors import compiled_furiosa
from actors.compiled_furiosa import read_bundle
from actors.engine import EngineConfig, Tuning
from actors.engines.furiosa import FuriosaServer, pes_of
from actors.errors import LoadFailed
from actors.server.endings import Ended, meaning
from actors.server.launch import launch

SERVER = FuriosaServer()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    write_bundle(tmp_path / "m.fxb", manifest((8, 2048), (4, 4096), tp=4))
    return tmp_path


def config_of(files: Path, **changes: Any) -> EngineConfig:
    fields: dict[str, Any] = {
        "model_path": str(files / "model"), "artifact": str(files / "m.fxb"), "model": "m",
        "handles": ("npu:0:0-3",), "window": 2048, "max_sequences": 8,
    }  # fmt: skip
    return engine_config(**fields | changes)


def test_a_bundle_tells_its_sizes(files: Path) -> None:
    bundle = read_bundle(files / "m.fxb")
    assert (bundle.tp, bundle.pp, bundle.pes) == (4, 1, 4)
    assert (bundle.batches, bundle.lengths, bundle.longest) == ((4, 8), (2048, 4096), 4096)
    assert (bundle.architecture, bundle.compiler, bundle.server) == (
        "LlamaForCausalLM", "2026.4.0", "2026.4.0",
    )  # fmt: skip


def test_manifests_of_older_forms_and_without_figures(tmp_path: Path) -> None:
    oldest = {"tensor_parallel_size": 2, "kernels": manifest((2, 256))["kernels"]}
    assert read_bundle(write_bundle(tmp_path / "a", oldest)).pes == 2
    bare = read_bundle(write_bundle(tmp_path / "b", {"kernels": {}}))
    assert (bare.pes, bare.batches, bare.longest) == (8, (), 0)


@pytest.mark.parametrize(
    "contents",
    [
        [], 1, None, {}, {"kernels": []},
        manifest(tp=0), manifest(tp=True), manifest(tp="8"), manifest(pp=-1), manifest(tp=1 << 40),
        manifest() | {"parallel_config": []}, manifest() | {"parallel_config": {}},
        manifest((0, 128)), manifest((1, 1 << 33)),
    ],
)  # fmt: skip
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path: Path, contents: object) -> None:
    path = write_bundle(tmp_path / "x.fxb", contents)
    with pytest.raises(LoadFailed, match=r"x\.fxb") as failed:
        read_bundle(path)
    assert "fxb build" in failed.value.hint


def test_odd_entries_beside_sensible_ones_do_no_harm(tmp_path: Path) -> None:
    odd = manifest((2, 256))
    odd["kernels"] |= {
        "a": 1,
        "b": [1, {}, {"bucket": 2}, {"bucket": {"sampler": {"input_size": 4}}}],
    }
    odd |= {
        "model": [],
        "versions": {"furiosa_llm": 3, "furiosa_compiler": {"version": "v" * 5000}},
    }
    bundle = read_bundle(write_bundle(tmp_path / "x", odd))
    assert (bundle.batches, bundle.architecture, bundle.server) == ((2,), "", "")
    assert len(bundle.compiler) == 100


def _zip(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def _many_names() -> bytes:
    """A table of contents of 20 MiB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for n in range(320):
            archive.writestr(f"{n}{'x' * 65000}", b"")
    return file.getvalue()


GOOD = _zip("manifest.json", json.dumps(manifest()).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"not a zip", GOOD[:-30], GOOD[40:], GOOD[:30] + b"\xff" * 20 + GOOD[50:],
        _zip("other.json", b"{}"), _zip("manifest.json", b"{"), _zip("manifest.json", b"\xff\xfe\x00"),
        _zip("manifest.json", b"[" * 200_000), _zip("manifest.json", b'{"kernels": ' + b"9" * 10_000 + b"}"),
        _zip("manifest.json", b" " * (compiled_furiosa.MANIFEST_BYTES + 100)),
        _zip("manifest.json", b"\0" * (300 << 20)),
        _many_names(),
    ],
    ids=lambda data: f"{len(data)} bytes",
)  # fmt: skip
def test_what_is_no_bundle_is_refused_and_costs_little(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.fxb"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LoadFailed, match=r"x\.fxb"):
        read_bundle(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 120_000  # KiB


def test_a_compression_that_python_lacks_is_refused(tmp_path: Path) -> None:
    data = bytearray(GOOD)
    central = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, 8, 99)
    struct.pack_into("<H", data, central + 10, 99)
    (tmp_path / "x.fxb").write_bytes(data)
    with pytest.raises(LoadFailed, match="no readable bundle"):
        read_bundle(tmp_path / "x.fxb")


@pytest.mark.parametrize("place", ["", "nowhere.fxb", "."])
def test_a_bundle_must_be_a_file(files: Path, place: str) -> None:
    artifact = str(files / place) if place else ""
    with pytest.raises(LoadFailed, match="bundle"):
        SERVER.values(config_of(files, artifact=artifact))


def test_the_command(files: Path, tmp_path: Path) -> None:
    planned = launch(SERVER, config_of(files), Path("/env/bin/python"), {"HF_HUB_OFFLINE": "1"})
    planned.folder.joinpath("w").rmdir()
    planned.folder.joinpath("t").rmdir()
    planned.folder.rmdir()
    said = " ".join(planned.argv)
    assert said.startswith(f"/env/bin/furiosa-llm serve {files / 'model'} --fxb {files / 'm.fxb'}")
    assert " --devices npu:0:0-3 --host 127.0.0.1 --port " in said
    assert " --max-model-len 2048 --max-concurrency 8 --data-parallel-size 1" in said
    assert " --enable-prefix-caching " in said
    assert planned.socket == ""
    assert planned.environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("handles", "tp", "fits"),
    [
        (("npu:0",), 8, True), (("npu:0:0-3", "npu:0:4-7"), 8, True), (("npu:1:0-3",), 4, True),
        (("npu:1:5",), 1, True), (("npu:0", "npu:1"), 16, True),
        (("npu:0",), 4, False), (("npu:0:0-3",), 8, False), (("npu:0", "npu:1"), 8, False), ((), 8, False),
        (("npu:0:0-3", "npu:0:0-3"), 8, False), (("0",), 8, False), (("npu:0:8",), 8, False),
        (("npu:0,npu:1",), 8, False), (("npu:0 --host 0.0.0.0",), 8, False),
    ],
)  # fmt: skip
def test_devices_hold_exactly_one_copy(
    files: Path, handles: tuple[str, ...], tp: int, fits: bool
) -> None:
    write_bundle(files / "m.fxb", manifest((8, 4096), tp=tp))
    config = config_of(files, handles=handles)
    if fits:
        assert SERVER.values(config)["devices"] == ",".join(handles)
        return
    with pytest.raises(LoadFailed) as failed:
        SERVER.values(config)
    assert failed.value.hint


def test_a_pipeline_of_cards_is_one_copy_too(files: Path) -> None:
    write_bundle(files / "m.fxb", manifest((8, 4096), tp=8, pp=2))
    assert SERVER.values(config_of(files, handles=("npu:0", "npu:1")))
    with pytest.raises(LoadFailed, match="16 PEs in 2 stages, and 8 are given"):
        SERVER.values(config_of(files, handles=("npu:0",)))


def test_a_window_beyond_the_bundle_is_refused_with_both_ways_out(files: Path) -> None:
    with pytest.raises(LoadFailed, match=r"5000 tokens is planned and .* built for 4096") as failed:
        SERVER.values(config_of(files, window=5000))
    assert "4096 or less" in failed.value.hint
    assert "--max-model-len 5000" in failed.value.hint


@pytest.mark.parametrize(
    "tuning",
    [Tuning(lora=(("a", "/a"),)), Tuning(quantization="fp8")],
    ids=["lora", "quantization"],
)
def test_what_is_fixed_when_it_is_built_cannot_be_asked_for(files: Path, tuning: Tuning) -> None:
    with pytest.raises(LoadFailed, match="when a bundle is built"):
        SERVER.values(config_of(files, tuning=tuning))


def test_weights_in_pickles_are_refused(files: Path) -> None:
    (files / "model" / "model.safetensors").rename(files / "model" / "pytorch_model.bin")
    with pytest.raises(LoadFailed, match="pickles"):
        SERVER.values(config_of(files, tuning=Tuning(allow_pickle=True)))


def test_its_limits_are_data(files: Path) -> None:
    limits = SERVER.capabilities(config_of(files, tuning=Tuning(prefix_cache=False)))
    assert (limits.window, limits.sequences) == (2048, 8)
    assert (limits.batch_buckets, limits.length_buckets) == ((4, 8), (2048, 4096))
    assert limits.ids_in and limits.ids_out and limits.json_schema
    assert not (limits.seed or limits.penalties or limits.exact or limits.prefix_cache)
    assert limits.continuation == "coherent"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ERROR:root:LLM engine terminated; signaling server shutdown.", "native engine died"),
        ("ValueError: internal error: engine init failed: Tensor parallelism degree must be 1, 2", "do not form"),
        ("ValueError: engine init failed: NPU error: HAL error on ClusterId(npu0pe0-3): Device busy", "cannot be opened"),
        ("NPU error: HAL error: librenegade.so: cannot open shared object file", "driver libraries"),
        ("[Errno 98] error while attempting to bind on address: address already in use", "took its port"),
        ("ModuleNotFoundError: No module named 'furiosa'", "environment is not whole"),
    ],
)  # fmt: skip
def test_endings_are_told_apart(line: str, reason: str) -> None:
    noise = (
        "INFO: Loading LLM: /m (fxb=/m.fxb)",
        "INFO: Using FXB: /m.fxb",
        "INFO: max_model_len=1024",
    )
    said, hint = meaning(Ended(status=1, lines=(*noise, line)), SERVER.endings)
    assert reason in said
    assert hint
    assert meaning(Ended(status=1, lines=noise), SERVER.endings)[0].startswith("it ended")


def test_fused_groups_are_counted() -> None:
    assert [pes_of(h) for h in ("npu:12", "npu:0:0-7", "npu:0:2-3", "npu:3:7")] == [8, 8, 2, 1]
