from __future__ import annotations

import json

import pytest
from support.dataplane import events_of, text_of

from actors.wire import End
from orchestrator.errors import RequestError
from orchestrator.gateway.exchange import Answered
from orchestrator.gateway.streams import Chat, Completion, Events, Identity, error_event

IDENTITY = Identity(id="chatcmpl-1", created=7, model="m", fingerprint="e-CPU")
END = End("length", 3, 2)


def a_stream(shape=None, *, include_usage=False) -> str:
    events = Events(shape or Chat(), IDENTITY, include_usage=include_usage)
    return events.opening() + events.text('a\n"b"') + events.text("é") + events.closing(END)


def test_a_chat_stream_is_role_text_finish_done() -> None:
    events = events_of(a_stream())
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(events) == 'a\n"b"é'
    assert [e["choices"][0]["finish_reason"] for e in events[:-1]] == [None, None, None, "length"]
    assert events[-1] == "[DONE]"
    assert {(e["id"], e["created"], e["object"]) for e in events[:-1]} == {
        ("chatcmpl-1", 7, "chat.completion.chunk")
    }
    assert all("usage" not in event for event in events[:-1])


def test_asked_for_usage_is_in_one_extra_chunk_and_null_before() -> None:
    *chunks, last, done = events_of(a_stream(include_usage=True))
    assert [chunk["usage"] for chunk in chunks] == [None] * 4
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert done == "[DONE]"


def test_a_completion_stream_has_text_and_no_role() -> None:
    events = events_of(a_stream(Completion()))
    assert "".join(e["choices"][0]["text"] for e in events[:-1]) == 'a\n"b"é'
    assert all("delta" not in event["choices"][0] for event in events[:-1])


def test_an_error_event_is_no_end() -> None:
    raw = error_event(RequestError("gone", reason="replica_lost")).decode()
    assert json.loads(raw.removeprefix("data: "))["error"]["code"] == "replica_lost"
    assert raw.endswith("\n\n")
    assert "[DONE]" not in raw


@pytest.mark.parametrize(
    ("shape", "kind"), [(Chat(), "chat.completion"), (Completion(), "text_completion")]
)
def test_whole_documents_have_all_required_fields(shape, kind) -> None:
    document = shape.whole(IDENTITY, Answered(text="hi", end=END))
    assert document["object"] == kind
    [choice] = document["choices"]
    assert choice["finish_reason"] == "length"
    assert choice.get("text", choice.get("message", {}).get("content")) == "hi"
    assert document["usage"]["total_tokens"] == 5
