"""What optimum-rbln itself compiles, saves, loads and refuses, and what we make of the same folders: only `rebel` is a stand-in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.engines import engine_config
from support.npu_artifacts import write_model
from support.vendor_tier import python_of

from actors.compiled_rbln import npu_family, read_compiled
from actors.engines.rbln import RblnServer
from actors.errors import LoadFailed
from actors.server.endings import Ended, meaning

STAND_INS = Path(__file__).resolve().parents[1] / "support" / "standins_engines"
REAL = "optimum-rbln 0.12: configuration, export, files, loading, its rules on devices"
STAND_IN = "rebel: graphs are text files, nothing is compiled or run"

pytestmark = pytest.mark.timeout(240)


def asked(*words: str) -> subprocess.CompletedProcess[str]:
    """optimum-rbln in its environment, with our `rebel` before any other."""
    python = python_of("rbln")
    return subprocess.run(
        [str(python), str(STAND_INS / "rbln_artifacts.py"), *words],
        capture_output=True, text=True, timeout=180, check=False,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(STAND_INS),
             "RBLN_STAND_IN": "RBLN-CA25:4", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def told(*words: str) -> dict[str, Any]:
    done = asked(*words)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that optimum-rbln itself has exported and saved."""
    folder = tmp_path_factory.mktemp("rbln")
    options = {
        "batch_size": 4,
        "max_seq_len": 4096,
        "num_devices": 2,
        "npu": "RBLN-CA25",
        "decoder_batch_sizes": [4, 2],
    }
    write_model(folder / "model")
    told("compile", str(folder / "model"), str(folder / "compiled"), json.dumps(options))
    return folder / "compiled"


@pytest.fixture
def copy(compiled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled, tmp_path / "compiled"))


def config_of(folder: Path, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "artifact": str(folder), "device_class": "RBLN_ATOM_MAX", "tp": 2, "handles": ("0", "1"),
        "window": 4096, "max_sequences": 4,
    }  # fmt: skip
    return engine_config(**fields | changes)


def test_what_it_compiled_is_read_as_it_reads_it(compiled: Path, said: Any) -> None:
    ours = read_compiled(compiled)
    theirs = told("load", str(compiled))
    assert (ours.batch, ours.window) == (theirs["batch"], theirs["window"]) == (4, 4096)
    assert list(ours.batches) == sorted(theirs["batches"]) == [2, 4]
    assert (ours.devices, ours.npu, ours.version) == (2, "RBLN-CA25", "0.12.0")
    said(real=REAL, stand_in=STAND_IN, seen=f"exported, saved, loaded; {ours}")


def test_the_engine_takes_its_limits_from_it(compiled: Path, said: Any) -> None:
    server = RblnServer()
    values = server.values(config_of(compiled))
    assert (values["compiled_window"], values["compiled_batch"]) == ("4096", "4")
    assert values["tokenizer"] == ""
    limits = server.capabilities(config_of(compiled))
    assert (limits.window, limits.sequences, limits.batch_buckets) == (4096, 4, (2, 4))
    said(real=REAL, stand_in=STAND_IN, seen=f"{values}; {limits.batch_buckets}")


def test_flash_attention_and_one_device(tmp_path: Path, said: Any) -> None:
    write_model(tmp_path / "model")
    options = {
        "batch_size": 2, "max_seq_len": 32768, "attn_impl": "flash_attn", "kvcache_partition_len": 16384,
        "npu": "RBLN-CA12", "kvcache_num_blocks": 4,
    }  # fmt: skip
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(
        json.dumps(config | {"max_position_embeddings": 32768})
    )
    told("compile", str(tmp_path / "model"), str(tmp_path / "out"), json.dumps(options))
    ours = read_compiled(tmp_path / "out")
    assert (ours.batch, ours.window, ours.devices, ours.npu) == (2, 32768, 1, "RBLN-CA12")
    said(real=REAL, stand_in=STAND_IN, seen=str(ours))


@pytest.mark.parametrize("spoilt", ["a graph is missing", "an unknown key", "another release"])
def test_what_it_refuses_we_refuse_or_explain(copy: Path, spoilt: str, said: Any) -> None:
    path = copy / "rbln_config.json"
    config = json.loads(path.read_text())
    if spoilt == "a graph is missing":
        (copy / "decoder_batch_2.rbln").unlink()
        with pytest.raises(LoadFailed, match=r"lacks decoder_batch_2\.rbln"):
            read_compiled(copy)
    else:
        release = "0.13.0" if spoilt == "another release" else config["optimum_rbln_version"]
        path.write_text(json.dumps(config | {"future": 1, "optimum_rbln_version": release}))
    done = asked("load", str(copy))
    assert done.returncode != 0
    ended = Ended(status=done.returncode, lines=tuple(done.stderr.splitlines()))
    reason, hint = meaning(ended, RblnServer.endings)
    expected = "not whole" if spoilt == "a graph is missing" else "another release of optimum-rbln"
    assert expected in reason
    assert hint
    said(real=REAL, stand_in=STAND_IN, seen=reason)


def test_families_are_as_it_names_them(said: Any) -> None:
    names = [
        "RBLN-CA02",
        "RBLN-CA12",
        "RBLN-CA15",
        "RBLN-CA22",
        "RBLN-CA25",
        "RBLN-CR03",
        "RBLN-CR13",
        "RBLN-CA2",
    ]
    theirs = told("families", *names)
    assert theirs == {name: npu_family(name) for name in names}
    said(real=REAL, stand_in=STAND_IN, seen=str(theirs))


@pytest.mark.parametrize(
    ("count", "npu", "device_class", "fits"),
    [
        (2, "RBLN-CA22", "RBLN_ATOM_MAX", True),  # another form factor of the same family
        (2, "RBLN-CA12", "RBLN_ATOM_MAX", False),
        (2, "RBLN-CR03", "RBLN_ATOM_MAX", False),
        (8, "RBLN-CA25", "RBLN_ATOM_MAX", False),
    ],
)
def test_its_rules_on_devices_are_ours(
    copy: Path, count: int, npu: str, device_class: str, fits: bool, said: Any
) -> None:
    refused = told("devices", str(count), npu)["refused"]
    assert (refused is None) == fits
    path = copy / "rbln_config.json"
    config = json.loads(path.read_text())
    for graph in config["_compile_cfgs"]:
        graph |= {"npu": npu, "num_devices": count}
    path.write_text(json.dumps(config))
    if fits:
        RblnServer().values(config_of(copy, device_class=device_class))
    else:
        with pytest.raises(LoadFailed, match="compiled for"):
            RblnServer().values(config_of(copy, device_class=device_class))
        reason, _ = meaning(Ended(status=1, lines=(f"ValueError: {refused}",)), RblnServer.endings)
        assert "not those that the model was compiled for" in reason
    said(real=REAL, stand_in=STAND_IN, seen=refused or "both take it")


def test_a_runtime_without_a_device_is_understood(compiled: Path, said: Any) -> None:
    python = python_of("rbln")
    program = (
        "import sys; from optimum.rbln import RBLNAutoModelForCausalLM as M;"
        "M.from_pretrained(sys.argv[1], export=False, rbln_create_runtimes=True)"
    )
    done = subprocess.run(
        [str(python), "-c", program, str(compiled)], capture_output=True, text=True, timeout=180, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(STAND_INS), "RBLN_STAND_IN": "RBLN-CA25:4", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode != 0
    ended = Ended(status=done.returncode, lines=tuple(done.stderr.splitlines()))
    reason, _ = meaning(ended, RblnServer.endings)
    assert "device cannot be opened" in reason
    said(real=REAL, stand_in=STAND_IN, seen=reason)
