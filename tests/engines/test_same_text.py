"""The same plain weights give the same greedy ids on every engine that computes exactly: one text, whoever answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.engines import engine_config, generated
from support.prepared import SOURCE, needs

from actors.engine import EngineRequest, Sampling
from actors.plugins import available_engines, engine_facts, make_engine
from actors.sources import path_of
from actors.text import TextModel
from orchestrator.preparing import prepare

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

TEXT = TextModel.load(path_of(SOURCE))
TOPICS = ("the sea", "a red fox", "prime numbers", "bread", "the moon", "chess", "rivers", "glass")
FORMS = {"openvino": ("gguf", "fp16"), "onnxruntime": ("onnx", "fp32"), "torch": ("safetensors", "fp32"), "vllm": ("safetensors", "fp32")}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> Path:
    """A GGUF file whose weights every engine reads alike."""
    needs("torch")
    needs("onnx-builder")
    return prepare(SOURCE, "gguf", "fp16", print).path


async def texts(name: str, plain: Path) -> list[tuple[int, ...]]:
    form, dtype = FORMS[name]
    path = plain if form == "gguf" else prepare(f"file://{plain}", form, dtype, print).path
    config = engine_config(
        model="m", model_path=str(path), facts=TextModel.load(plain).facts, arithmetic="exact",
        window=512, max_sequences=8, kv_bytes=1 << 29, threads=1, eos_ids=TEXT.eos_ids,
    )  # fmt: skip
    engine = make_engine(name)
    try:
        await engine.load(config, lambda _: None)
        assert engine.capabilities.numerics == "fp32"
        return [(await generated(engine, about(topic)))[0] for topic in TOPICS]
    finally:
        await engine.close()


def about(topic: str) -> EngineRequest:
    ids = TEXT.chat_ids([{"role": "user", "content": f"Tell me about {topic}."}])
    return EngineRequest(id=topic, prompt_ids=ids, sampling=Sampling(max_tokens=24))


async def test_engines_of_one_arithmetic_give_one_text(plain: Path) -> None:
    startable, _ = available_engines()
    assert all(engine_facts(name) for name in FORMS)
    found = {name: await texts(name, plain) for name in sorted(FORMS) if name in startable}
    print({name: sum(map(len, ids)) for name, ids in found.items()})
    assert len(found) > 2
    assert all(ids == found["openvino"] for ids in found.values())
