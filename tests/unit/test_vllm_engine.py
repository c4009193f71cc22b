"""What vLLM is started with, what it refuses, and what its endings mean: templates and values, no process."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support.engines import engine_config

from actors.engine import EngineConfig, StagePlace, Tuning
from actors.engines.vllm import VllmServer
from actors.errors import LoadFailed
from actors.server.endings import Ended, meaning
from actors.server.node_group import Peer
from actors.server.spec import When

SERVER = VllmServer()
GIVEN = {
    "python": "/env/bin/python", "bin": "/env/bin", "model": "/m", "served": "m-1", "socket": "/f/s",
    "window": "1024", "sequences": "8", "tp": "1",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def config(folder: Path, **changes: Any) -> EngineConfig:
    return engine_config(**{"model_path": str(folder)} | changes)


def command(config: EngineConfig) -> list[str]:
    """The command as the carrier fills it."""
    values = {**GIVEN, "tp": str(config.tp), **SERVER.values(config)}
    words = [part if isinstance(part, When) else When("bin", part) for part in SERVER.argv]
    return [word for part in words for word in part.filled(values)]


def variables(config: EngineConfig) -> dict[str, str]:
    values = {**GIVEN, **SERVER.values(config)}
    return {name: text.format_map(values) for name, text in SERVER.variables.items()}


def after(words: list[str] | tuple[str, ...], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words else None


def stage(host: str, first: int, end: int, *handles: str) -> StagePlace:
    return StagePlace(host=host, handles=handles or ("0",), layers=(first, end))


def pipeline(folder: Path, *stages: StagePlace, **changes: Any) -> EngineConfig:
    fields = {"family": "nvidia", "stages": stages, "meeting_port": 29600}
    return config(folder, **fields | changes)


def test_a_processor_gets_exact_arithmetic_its_kv_memory_and_no_compiler(folder: Path) -> None:
    words = command(config(folder, kv_bytes=1 << 30))
    assert words[:4] == ["/env/bin/python", "-P", "-m", "vllm.entrypoints.openai.api_server"]
    assert after(words, "--uds") == "/f/s"
    assert after(words, "--dtype") == "float32"
    assert after(words, "--kv-cache-memory-bytes") == str(1 << 30)
    assert after(words, "--generation-config") == "vllm"
    assert after(words, "--load-format") == "safetensors"
    assert "--enforce-eager" in words
    assert "--enable-prefix-caching" in words
    assert not {"--gpu-memory-utilization", "--enable-lora", "--nnodes", "--trust-remote-code"} & {
        *words
    }


def test_nothing_of_one_node_is_told_to_listen_beyond_the_loopback(folder: Path) -> None:
    told = variables(config(folder, tp=2, family="nvidia", handles=("a", "b")))
    assert told["VLLM_HOST_IP"] == "127.0.0.1"
    assert told["GLOO_SOCKET_IFNAME"] == told["NCCL_SOCKET_IFNAME"] == "lo"
    assert "--host" not in command(config(folder))


def test_what_a_spec_asks_for_becomes_options(folder: Path) -> None:
    tuning = Tuning(
        attention_backend="FLASHINFER", quantization="awq", kv_dtype="fp8", prefix_cache=False
    )
    words = command(config(folder, tuning=tuning, arithmetic="fast", dtype="bf16", family="nvidia"))
    assert after(words, "--attention-backend") == "FLASHINFER"
    assert after(words, "--quantization") == "awq"
    assert after(words, "--kv-cache-dtype") == "fp8"
    assert after(words, "--dtype") == "bfloat16"
    assert "--no-enable-prefix-caching" in words
    assert "--enforce-eager" not in words


def test_a_gpu_shares_its_kv_memory_out_and_need_not_be_empty(folder: Path) -> None:
    words = command(
        config(folder, family="nvidia", handles=("a", "b"), tp=2, kv_bytes=1 << 31, window=64)
    )
    assert after(words, "--kv-cache-memory-bytes") == str(1 << 30)
    assert after(words, "--gpu-memory-utilization") == "0.05"
    assert after(words, "--tensor-parallel-size") == "2"
    assert after(words, "--distributed-executor-backend") == "mp"


def test_the_kv_memory_holds_at_least_one_whole_sequence(folder: Path) -> None:
    words = command(config(folder, kv_bytes=1, window=1000))
    one_token = 2 * 2 * 2 * 2 * 4  # keys and values, layers, heads, width, bytes
    assert int(after(words, "--kv-cache-memory-bytes") or 0) == one_token * 32 * (32 + 1)


@pytest.mark.parametrize(
    ("threads", "cores", "tp", "bind", "each"),
    [
        (0, (), 1, "auto", ""),
        (3, (), 1, "nobind", "3"),
        (2, (4, 5), 1, "4,5", "2"),
        (2, (0, 8, 1, 9), 1, "0,1", "2"),
        (0, (4, 5, 6, 7), 2, "4,5|6,7", "2"),
        (9, (4,), 1, "4", "1"),
    ],
)
def test_threads_stay_on_the_planned_cores_and_do_not_spin(
    folder: Path, threads: int, cores: tuple[int, ...], tp: int, bind: str, each: str
) -> None:
    told = variables(config(folder, threads=threads, cores=cores, tp=tp))
    assert (told["VLLM_CPU_OMP_THREADS_BIND"], told["OMP_NUM_THREADS"]) == (bind, each)
    assert (told["OMP_WAIT_POLICY"], told["GOMP_SPINCOUNT"]) == ("PASSIVE", "0")


def test_a_gpu_gets_no_core_list(folder: Path) -> None:
    told = variables(config(folder, family="nvidia", threads=2, cores=(0, 1)))
    assert (told["VLLM_CPU_OMP_THREADS_BIND"], told["OMP_NUM_THREADS"]) == ("", "2")


def test_too_few_cores_for_its_workers_are_refused(folder: Path) -> None:
    with pytest.raises(LoadFailed, match="1 cores cannot be shared by 2 workers"):
        SERVER.values(config(folder, threads=1, cores=(0,), tp=2))


# -- what is loaded -------------------------------------------------------------------------------------------------


def test_pickles_are_refused_unless_asked_for(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LoadFailed, match=r"pytorch_model\.bin") as refused:
        SERVER.values(config(folder))
    assert "allow_pickle" in refused.value.hint
    words = command(config(folder, tuning=Tuning(allow_pickle=True)))
    assert after(words, "--load-format") == "auto"


def test_pickles_beside_safetensors_are_never_opened(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"")
    words = command(config(folder, tuning=Tuning(allow_pickle=True)))
    assert after(words, "--load-format") == "safetensors"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_model_with_code_of_its_own_is_refused(folder: Path, file: str) -> None:
    (folder / file).write_text(json.dumps({"auto_map": {"AutoConfig": "own.MyConfig"}}))
    (folder / "own.py").write_text("")
    with pytest.raises(LoadFailed, match=r"own\.MyConfig") as refused:
        SERVER.values(config(folder))
    assert "trust_remote_code stays off" in refused.value.hint


def test_code_of_another_repository_is_refused(folder: Path) -> None:
    named = {"AutoTokenizer": ["who/what--tok.Slow", None]}
    (folder / "config.json").write_text(json.dumps({"auto_map": named}))
    with pytest.raises(LoadFailed, match="who/what--tok"):
        SERVER.values(config(folder))


def test_code_that_is_not_there_harms_nobody(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "own.MyConfig"}}))
    assert SERVER.values(config(folder))


def test_a_folder_that_is_no_model_is_a_clear_failure(tmp_path: Path) -> None:
    for path, says in (
        ("", "no model path"),
        (str(tmp_path / "none"), "is no folder"),
        (str(tmp_path), r"config\.json cannot be read"),
    ):
        with pytest.raises(LoadFailed, match=says) as refused:
            SERVER.values(engine_config(model_path=path))
        assert refused.value.hint
    for text in ("{", "[]", "\x00"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(LoadFailed, match=r"config\.json"):
            SERVER.values(engine_config(model_path=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LoadFailed, match="holds no weights"):
        SERVER.values(engine_config(model_path=str(tmp_path)))


def test_planned_bits_are_named_only_when_the_checkpoint_does_not_say_them(folder: Path) -> None:
    plan = {"family": "nvidia", "arithmetic": "fast"}
    assert after(command(config(folder, dtype="fp8", **plan)), "--quantization") == "fp8"
    with pytest.raises(LoadFailed, match="wants int4 weights"):
        SERVER.values(config(folder, dtype="int4", **plan))
    (folder / "config.json").write_text(
        json.dumps({"quantization_config": {"quant_method": "awq"}})
    )
    words = command(config(folder, dtype="int4", **plan))
    assert after(words, "--quantization") is None
    assert after(words, "--dtype") == "auto"


def adapter(folder: Path, rank: object) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return str(folder)


def test_adapters_are_named_and_the_largest_rank_is_rounded_up(folder: Path) -> None:
    one, two = adapter(folder / "one", 4), adapter(folder / "two", 20)
    chosen = config(folder, tuning=Tuning(lora=(("a", one), ("b", two))))
    words = command(chosen)
    at = words.index("--lora-modules")
    assert words[at + 1 :] == [f"a={one}", f"b={two}"]
    # One slot stays empty on processors: sequences without adapter are given the last one's weights there.
    assert (after(words, "--max-loras"), after(words, "--max-lora-rank")) == ("3", "32")
    assert after(command(dataclasses.replace(chosen, family="nvidia")), "--max-loras") == "2"
    assert SERVER.capabilities(chosen).lora == ("a", "b")


def test_adapters_that_cannot_be_are_refused(folder: Path) -> None:
    good, bad = adapter(folder / "good", 8), adapter(folder / "bad", "x")
    for lora, says in (
        ((("a", bad),), "gives no rank"),
        ((("a=b", good),), "takes no"),
        ((("a", str(folder / "none")),), "no folder of a model"),
        (tuple((str(n), good) for n in range(17)), "17 adapters"),
    ):
        with pytest.raises(LoadFailed, match=says):
            SERVER.values(config(folder, tuning=Tuning(lora=lora)))
    (folder / "good" / "adapter_model.safetensors").rename(folder / "good" / "adapter_model.bin")
    with pytest.raises(LoadFailed, match="pickles"):
        SERVER.values(config(folder, tuning=Tuning(lora=(("a", good),))))


# -- what it promises -----------------------------------------------------------------------------------------------


def test_it_is_exact_only_where_that_was_seen(folder: Path) -> None:
    plain = SERVER.capabilities(config(folder))
    assert (plain.exact, plain.continuation) == (True, "exact")
    assert (plain.window, plain.sequences, plain.ids_in, plain.ids_out) == (1024, 8, True, True)
    for changes in (
        {"arithmetic": "fast"},
        {"family": "nvidia"},
        {"tp": 2},
        {"tuning": Tuning(kv_dtype="fp8")},
        {"tuning": Tuning(lora=(("a", "/adapters/a"),))},
        {"tuning": Tuning(quantization="awq")},
    ):
        other = SERVER.capabilities(config(folder, **changes))
        assert (other.exact, other.continuation) == (False, "coherent"), changes
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"bits": 4}}))
    assert not SERVER.capabilities(config(folder)).exact


def test_a_gpu_is_asked_for_texts_that_do_not_depend_on_the_batch(folder: Path) -> None:
    assert variables(config(folder, family="nvidia"))["VLLM_BATCH_INVARIANT"] == "1"
    fast = config(folder, family="nvidia", arithmetic="fast")
    assert variables(fast)["VLLM_BATCH_INVARIANT"] == ""


# -- pipelines ------------------------------------------------------------------------------------------------------


def test_stages_on_one_node_need_no_other_process(folder: Path) -> None:
    chosen = pipeline(folder, stage("", 0, 1, "a"), stage("", 1, 2, "b"), meeting_port=0)
    words = command(chosen)
    assert after(words, "--pipeline-parallel-size") == "2"
    assert "--nnodes" not in words
    assert variables(chosen)["VLLM_PP_LAYER_PARTITION"] == "1,1"
    assert SERVER.peers(chosen) == ()


def test_a_pipeline_over_nodes_is_one_group_of_processes(folder: Path) -> None:
    facts = dataclasses.replace(engine_config().facts, layers=32, kv_heads=4)
    stages = (
        stage("10.0.0.1", 0, 10, "a", "b"),
        stage("10.0.0.2", 10, 21, "c", "d"),
        stage("10.0.0.3", 21, 32, "e", "f"),
    )
    chosen = pipeline(folder, *stages, tp=2, facts=facts, kv_bytes=6 << 30)
    first = command(chosen)
    peers = SERVER.peers(chosen)
    assert [(peer.host, peer.handles) for peer in peers] == [
        ("10.0.0.2", ("c", "d")),
        ("10.0.0.3", ("e", "f")),
    ]
    for rank, words in enumerate((first, *(peer.argv for peer in peers))):
        assert after(words, "--nnodes") == "3"
        assert after(words, "--node-rank") == str(rank)
        assert after(words, "--master-addr") == "10.0.0.1"
        assert after(words, "--master-port") == "29600"
        assert after(words, "--tensor-parallel-size") == "2"
        assert after(words, "--pipeline-parallel-size") == "3"
        assert after(words, "--kv-cache-memory-bytes") == str(1 << 30)
    own = (variables(chosen), *(peer.variables for peer in peers))
    assert [told["VLLM_HOST_IP"] for told in own] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert {told["VLLM_PP_LAYER_PARTITION"] for told in own} == {"10,11,11"}
    assert {told["GLOO_SOCKET_IFNAME"] for told in own} == {""}
    assert "--headless" not in first


def test_a_peer_serves_nobody_and_is_filled_in_on_its_node(folder: Path) -> None:
    path = adapter(folder / "{odd}", 8)
    chosen = pipeline(
        folder, stage("a", 0, 1), stage("b", 1, 2), tuning=Tuning(lora=(("x", path),))
    )
    (peer,) = SERVER.peers(chosen)
    assert isinstance(peer, Peer)
    words = [word.format_map({"bin": "/there/bin", "model": "/there/m"}) for word in peer.argv]
    assert words[:4] == ["/there/bin/vllm", "serve", "/there/m", "--headless"]
    assert f"x={path}" in words
    assert "--uds" not in words


@pytest.mark.parametrize(
    ("stages", "changes", "says"),
    [
        (("a 0 1", "b 1 2"), {"meeting_port": 0}, "port"),
        (("a 0 1", "b 1 2"), {"family": "cpu"}, "processors"),
        (("a 0 1", "b 1 2"), {"tp": 2}, "1 devices, tp is 2"),
        (("a 0 1", "b 1 3"), {}, "not all 2 in order"),
        (("a 0 1", "b 0 2"), {}, "not all 2 in order"),
        (("a 0 2", "b 2 2"), {}, "not all 2 in order"),
        (("a 0 1", "a 1 2", "b 2 3"), {}, "different numbers of stages"),
        (("a 0 1", "b 1 2", "a 2 3"), {}, "not neighbours"),
    ],
)
def test_groups_that_cannot_be_are_refused(
    folder: Path, stages: tuple[str, ...], changes: dict[str, Any], says: str
) -> None:
    split = [text.split() for text in stages]
    places = [stage(host, int(first), int(end)) for host, first, end in split]
    with pytest.raises(LoadFailed, match=says) as refused:
        SERVER.values(pipeline(folder, *places, **changes))
    assert refused.value.hint


# -- endings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "GPU has too little"),
        ("ValueError: Free memory on device cuda:0 (1.2/79 GiB) on startup is less than desired", "GPU has too"),
        ("ValueError: No available memory for the cache blocks. Try increasing", "KV cache is too small"),
        ("(0.02 GiB KV cache is needed, which is larger than the available KV cache memory (0.0 GiB)", "KV cache"),
        ("ValueError: Available memory on node 0 (20.1/23.5 GiB) on kv cache allocation is less", "node has too"),
        ("Value error, User-specified max_model_len (100000) is greater than the derived", "longer than the model"),
        ("Value error, Model architectures ['NoSuch'] are not supported for now. Supported", "does not know"),
        ("please set the option `trust_remote_code=True` to remove this error.", "code of its own"),
        ("safetensors_rust.SafetensorError: Error while deserializing header", "torn or foreign"),
        ("RuntimeError: Found no NVIDIA driver on your system.", "no driver"),
        ("RuntimeError: Failed to infer device type, please set", "no driver"),
        ("OSError: [Errno 98] Address already in use", "address is taken"),
        ("OSError: [Errno 28] No space left on device", "full"),
        ("importlib.metadata.PackageNotFoundError: No package metadata was found for vllm", "environment"),
        ("Worker proc VllmWorker-0 died unexpectedly (exit code: None), shutting down", "processes died"),
        ("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.", "while it served"),
        ("RuntimeError: Engine core initialization failed. See root cause above.", "while it started"),
    ],
)  # fmt: skip
def test_an_ending_is_explained_by_its_cause(line: str, reason: str) -> None:
    consequence = "RuntimeError: Engine core initialization failed. See root cause above."
    noise = "non-default args: {'model': '/m', 'trust_remote_code': False, 'dtype': 'float32'}"
    said, hint = meaning(Ended(status=1, lines=(noise, line, consequence)), SERVER.endings)
    assert reason in said
    assert hint


def test_a_kill_by_the_kernel_is_told_as_such() -> None:
    said, hint = meaning(Ended(status=-9), SERVER.endings)
    assert "memory" in said
    assert hint
