"""The endpoint of a live lab: an unmodified OpenAI client, four kinds of devices behind one name, bad input."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from support.load import DONE, ask, chat_body

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
CLASSES = {"NVIDIA_H100_80G", "RBLN_ATOM", "FURIOSA_RNGD", "CPU"}


@pytest.fixture(scope="module")
def client(lab) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=lab.endpoint, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(lab) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=lab.url, timeout=30, trust_env=False) as http:
        yield http


def test_models_say_that_they_are_emulated(client) -> None:
    (model,) = client.models.list()
    assert model.id == "smollm2"
    assert model.model_extra["shardyard"]["emulated"] is True
    assert model.model_extra["shardyard"]["replicas_ready"] == 4


def test_the_official_client_chats_and_streams_the_same_text(client) -> None:
    whole = client.chat.completions.create(model="smollm2", messages=MESSAGES, max_tokens=12)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 12
    chunks = list(
        client.chat.completions.create(
            model="smollm2",
            messages=MESSAGES,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


def test_a_stop_string_ends_the_text_before_it(client) -> None:
    whole = client.chat.completions.create(model="smollm2", messages=MESSAGES, max_tokens=12)
    words = whole.choices[0].message.content.split()
    stopped = client.chat.completions.create(
        model="smollm2", messages=MESSAGES, max_tokens=12, stop=words[6]
    )
    assert stopped.choices[0].finish_reason == "stop"
    text = stopped.choices[0].message.content
    assert words[6] not in text
    assert whole.choices[0].message.content.startswith(text)


def test_completions_answer(client) -> None:
    whole = client.completions.create(model="smollm2", prompt="Once upon a time", max_tokens=5)
    assert whole.choices[0].text
    assert whole.usage.completion_tokens == 5


def test_every_answer_has_a_receipt(lab) -> None:
    for stream in (False, True):
        answer = ask(lab.endpoint, chat_body(max_tokens=3, stream=stream))
        assert answer.outcome == DONE
        assert answer.replica.startswith("smollm2/r")
        assert answer.headers["x-shardyard-device-class"] in CLASSES
        assert answer.headers["x-shardyard-engine"] == "emulated"
        assert answer.headers["x-shardyard-emulated"] == "true"
        assert answer.headers["x-request-id"]


def test_one_name_is_answered_by_four_kinds_of_devices(lab) -> None:
    bodies = [chat_body(f"question {n}", max_tokens=20) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: ask(lab.endpoint, body), bodies))
    assert {a.outcome for a in answers} == {DONE}
    assert {a.headers["x-shardyard-device-class"] for a in answers} == CLASSES


def test_the_same_question_has_the_same_answer_everywhere(lab) -> None:
    body = chat_body("same for all", max_tokens=20)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(lab.endpoint, body), range(24)))
    assert len({a.replica for a in answers}) > 1
    assert len({a.text for a in answers}) == 1


@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/metrics"])
def test_probes_answer(http, path: str) -> None:
    assert http.get(path).status_code == 200


def refused(http, status: int, **fields: object) -> dict:
    answer = http.post("/v1/chat/completions", json=chat_body() | fields)
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    return answer.json()["error"]


def test_malformed_json_is_refused(http) -> None:
    headers = {"content-type": "application/json"}
    answer = http.post("/v1/chat/completions", content=b'{"model": "smol', headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_an_unknown_model_is_404(http) -> None:
    assert refused(http, 404, model="gpt-9")["code"] == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_window_is_refused(http, stream: bool) -> None:
    long = [{"role": "user", "content": "word " * 5000}]
    error = refused(http, 400, messages=long, stream=stream)
    assert error["code"] == "context_length_exceeded"
    assert "2048" in error["message"]


def test_absurd_max_tokens_are_clamped(http) -> None:
    answer = http.post("/v1/chat/completions", json=chat_body(max_tokens=10**9))
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["total_tokens"] <= 2048


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
    ],
)
def test_what_is_not_supported_is_named(http, field: str, value: object) -> None:
    error = refused(http, 400, **{field: value})
    assert error["param"] == field
    assert field in error["message"]


def test_content_may_be_a_list_of_parts(http) -> None:
    parts = [{"type": "text", "text": "hi"}]
    body = chat_body(max_tokens=5)
    plain = http.post("/v1/chat/completions", json=body).json()
    body["messages"][0]["content"] = parts
    listed = http.post("/v1/chat/completions", json=body).json()
    assert listed["choices"] == plain["choices"]


def test_control_tokens_in_a_text_are_only_text(http) -> None:
    def prompt_tokens(text: str) -> int:
        answer = http.post("/v1/chat/completions", json=chat_body(text, max_tokens=1))
        return answer.json()["usage"]["prompt_tokens"]

    assert prompt_tokens("<|im_end|>") >= prompt_tokens("x") + 3
