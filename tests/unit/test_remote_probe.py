"""Remote endpoints: what the operator may write, what an endpoint answers, and what becomes of one that goes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.hosts import FakeHost, recorded

from actors.host import Fetched, RealHost
from actors.probe import Absent, Broken, Found
from actors.probes.remote import REMOTE_ENV, RemoteProbe
from placement.devices import Health, Kind
from placement.ids import NodeId

NODE = NodeId("n")
MODELS = json.dumps({"object": "list", "data": [{"id": "chat"}, {"id": "code"}]})
URL = "http://lab:8000/v1/models"


def host(*entries, fetches=None, **changes) -> FakeHost:
    named = json.dumps(list(entries) or [{"url": "http://lab:8000", "name": "lab"}])
    variables = {REMOTE_ENV: named, **changes.pop("variables", {})}
    return FakeHost(variables=variables, fetches=fetches or {}, **changes)


def found(machine, probe: RemoteProbe | None = None) -> Found:
    outcome = (probe or RemoteProbe()).probe(machine, NODE)
    assert isinstance(outcome, Found), outcome
    return outcome


def test_no_variable_is_absent():
    assert RemoteProbe().probe(FakeHost(), NODE) == Absent()
    assert RemoteProbe().probe(FakeHost(variables={REMOTE_ENV: "[]"}), NODE) == Absent()


def test_an_endpoint_is_a_device_with_a_share_for_each_sequence():
    outcome = found(recorded("remote", "synthetic-vllm"))
    (one,) = outcome.accelerators
    (known,) = outcome.classes
    assert (one.identity, one.shares) == ("remote:lab-1:8000/v1", 8)
    assert (known.kind, known.name, known.vendor) == (Kind.REMOTE, "REMOTE_VLLM_LAB", "unknown")
    assert known.endpoint is not None
    assert known.endpoint.url == "openai+http://lab-1:8000/v1"
    assert known.endpoint.models == {"Qwen/Qwen3-8B", "lora-chat"}
    assert (known.endpoint.tokens_per_s, known.endpoint.ttft_s) == (45.0, 0.12)
    assert [(b.reason, b.hint) for b in outcome.broken] == [
        ("hosted refuses the key (status 401)", f"check HOSTED_KEY of {REMOTE_ENV}"),
        ("other: OTHER_KEY holds no key", "set OTHER_KEY where the node's agent is started"),
    ]


def test_what_is_not_declared_is_assumed_with_a_note_and_a_wide_margin():
    outcome = found(host(fetches={URL: MODELS}))
    (known,) = outcome.classes
    assert known.uncertainty == 1.0
    notes = dict(outcome.accelerators[0].notes)
    assert "assumed" in notes["tokens_per_s"]
    declared = found(host({"url": "http://lab:8000", "tokens_per_s": 50.0}, fetches={URL: MODELS}))
    assert declared.classes[0].uncertainty == 0.5
    assert "tokens_per_s" not in dict(declared.accelerators[0].notes)


def test_the_first_token_takes_at_least_what_the_list_of_models_takes():
    entry = {"url": "http://lab:8000", "ttft_ms": 10}
    probe = RemoteProbe()

    def ttft_s(seconds: float) -> float:
        answer = Fetched(status=200, text=MODELS, seconds=seconds)
        (known,) = found(host(entry, fetches={URL: answer}), probe).classes
        assert known.endpoint is not None
        return known.endpoint.ttft_s

    assert ttft_s(0.19) == 0.2
    assert ttft_s(0.04) == 0.05
    assert ttft_s(0.9) == 0.05, "one slow answer does not make an endpoint slow"
    assert ttft_s(0.001) == 0.01, "never faster than its operator says"


def test_only_declared_models_count_and_those_missing_are_named():
    entry = {"url": "http://lab:8000", "name": "lab", "models": ["code", "gone"]}
    outcome = found(host(entry, fetches={URL: MODELS}))
    assert outcome.classes[0].endpoint is not None
    assert outcome.classes[0].endpoint.models == {"code"}
    assert outcome.broken == (
        Broken(reason="lab does not offer gone", hint="it offers chat, code"),
    )


@pytest.mark.parametrize(
    ("answer", "says", "mends"),
    [
        (None, "no whole answer", "curl"),
        (Fetched(status=0, text="Connection refused", seconds=0.0), "Connection refused", "curl"),
        (Fetched(status=401, text="", seconds=0.0), "refuses the key", "api_key_env"),
        (Fetched(status=403, text="", seconds=0.0), "refuses the key", "api_key_env"),
        (Fetched(status=302, text="", seconds=0.0), "redirects", "where it leads"),
        (Fetched(status=404, text="", seconds=0.0), "no list of models", "OpenAI address"),
        (Fetched(status=429, text="", seconds=0.0), "no more requests", "limit"),
        (Fetched(status=500, text="", seconds=0.0), "fails (status 500)", "log"),
        (Fetched(status=200, text="<html>", seconds=0.0), "something else", "OpenAI address"),
        (Fetched(status=200, text='{"data": 7}', seconds=0.0), "something else", "OpenAI address"),
        (Fetched(status=200, text='{"data": [7, {"id": 3}]}', seconds=0.0), "no model", "load"),
    ],
)
def test_an_endpoint_that_cannot_be_used_says_why(answer, says, mends):
    fetches = {} if answer is None else {URL: answer}
    outcome = found(host(fetches=fetches))
    assert outcome.accelerators == ()
    (broken,) = outcome.broken
    assert says in broken.reason
    assert mends in broken.hint


def test_our_names_of_models_count_where_the_endpoint_has_them_under_theirs():
    entry = {"url": "http://lab:8000", "name": "lab", "names": {"talk": "chat", "draw": "painter"}}
    outcome = found(host(entry, fetches={URL: MODELS}))
    assert outcome.classes[0].endpoint is not None
    assert outcome.classes[0].endpoint.models == {"chat", "code", "talk"}
    assert [b.reason for b in outcome.broken] == ["lab does not offer painter"]
    only = found(host(entry | {"models": ["talk"]}, fetches={URL: MODELS}))
    assert only.classes[0].endpoint is not None
    assert only.classes[0].endpoint.models == {"talk"}
    assert only.broken == ()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:8000", "loopback"),
        ("http://[::1]:8000", "loopback"),
        ("http://10.1.2.3", "private"),
        ("http://169.254.169.254", "tells its secrets"),
        ("http://127.1", "no address"),
    ],
)
def test_an_address_inside_is_not_asked_unless_it_may(url, says):
    answers = {f"{url}/v1/models": MODELS}
    outcome = found(host({"url": url}, fetches=answers))
    assert outcome.accelerators == ()
    assert says in outcome.broken[0].reason
    assert "allow_private" in outcome.broken[0].hint


def test_a_name_that_leads_inside_is_refused_unless_it_may():
    inside = Fetched(status=200, text=MODELS, seconds=0.0, private=True)
    outcome = found(host(fetches={URL: inside}))
    assert outcome.accelerators == ()
    assert "not public" in outcome.broken[0].reason
    allowed = {"url": "http://lab:8000", "allow_private": True}
    assert found(host(allowed, fetches={URL: inside})).broken == ()


def test_an_endpoint_that_goes_is_lost_with_the_cause_and_comes_back():
    probe = RemoteProbe()
    there = host(fetches={URL: MODELS})
    before = found(there, probe).accelerators[0]
    gone = found(host(fetches={URL: Fetched(status=503, text="", seconds=0.0)}), probe)
    assert gone.accelerators[0].identity == before.identity
    assert gone.accelerators[0].health is Health.LOST
    assert gone.accelerators[0].evidence == ("lab fails (status 503)",)
    assert gone.classes, "its class stays known"
    assert found(there, probe).accelerators[0].health is Health.HEALTHY


def test_a_poll_asks_at_most_every_30_s():
    probe = RemoteProbe()
    first = found(host(fetches={URL: MODELS}), probe)
    identity = first.accelerators[0].identity
    down_soon = host(clock=[29.0])
    assert probe.poll(down_soon, first)[identity].faults == ()
    down_later = host(clock=[31.0])
    assert "cannot be asked" in probe.poll(down_later, first)[identity].faults[0]
    up_again = host(fetches={URL: MODELS}, clock=[62.0])
    assert probe.poll(up_again, first)[identity].faults == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ('{"url": "http://a"}', "not a list"),
        ("[7]", "[0]: should be"),
        ("[{}]", "[0].url: Field required"),
        ('[{"url": "ftp://a"}]', "[0].url: should be http"),
        ('[{"url": "http://"}]', "[0].url"),
        ('[{"url": "http://a:port"}]', "[0].url"),
        ('[{"url": "https://user:hunter2@a"}]', "[0].url: should have no password"),
        ('[{"url": "https://a?key=hunter2"}]', "[0].url: should have no password"),
        ('[{"url": "https://%s.b"}]' % ("a" * 64), "[0].url: should have a host name"),
        ('[{"url": "http://a", "concurency": 2}]', "[0].concurency: unknown key"),
        ('[{"url": "http://a", "concurrency": 0}]', "[0].concurrency"),
        ('[{"url": "http://a", "concurrency": "8"}]', "[0].concurrency"),
        ('[{"url": "http://a", "tokens_per_s": -1}]', "[0].tokens_per_s"),
        ('[{"url": "http://a", "tokens_per_s": NaN}]', "[0].tokens_per_s"),
        ('[{"url": "http://a", "name": "\\u001b[31m"}]', "[0].name"),
        ('[{"url": "http://a", "api_key": "hunter2"}]', "[0].api_key: unknown key"),
        ('[{"url": "http://a", "api_key_env": "hunter2 $"}]', "[0].api_key_env"),
        ('[{"url": "http://a", "allow_private": "yes"}]', "[0].allow_private"),
        ('[{"url": "http://a", "dialect": "tgi"}]', "[0].dialect"),
        ('[{"url": "http://a", "names": {"ours": ""}}]', "[0].names"),
        ('[{"url": "http://a", "names": ["ours"]}]', "[0].names"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_variable_that_is_wrong_names_the_key_and_never_the_value(text, says):
    outcome = RemoteProbe().probe(FakeHost(variables={REMOTE_ENV: text}), NODE)
    assert isinstance(outcome, Broken)
    assert outcome.reason.startswith(REMOTE_ENV)
    assert says in outcome.reason
    assert outcome.hint
    assert "hunter2" not in repr(outcome)


def test_one_wrong_entry_does_not_hide_the_others():
    entries = [{"url": "http://lab:8000", "name": "lab"}, {"url": "http://b", "name": "LAB"}]
    outcome = found(host(*entries, {"url": "http://lab:8000/v1"}, fetches={URL: MODELS}))
    assert [a.product for a in outcome.accelerators] == ["lab"]
    assert [b.reason.partition(":")[0] for b in outcome.broken] == [
        f"{REMOTE_ENV}[1].name",
        f"{REMOTE_ENV}[2].url",
    ]


def test_too_many_entries_are_none():
    entries = [{"url": f"http://h{k}"} for k in range(17)]
    outcome = RemoteProbe().probe(host(*entries), NODE)
    assert isinstance(outcome, Broken)
    assert "at most 16" in outcome.reason


class Stuck(FakeHost):
    """A machine on which one name is never found, nor refused."""

    released = threading.Event()

    def fetch(self, url, timeout_s, headers=None):
        if "stuck" in url:
            self.released.wait()
        return super().fetch(url, timeout_s, headers)


def test_an_endpoint_that_hangs_keeps_no_other_waiting():
    entries = [{"url": "http://stuck", "name": "stuck"}, {"url": "http://lab:8000", "name": "lab"}]
    machine = Stuck(variables={REMOTE_ENV: json.dumps(entries)}, fetches={URL: MODELS})
    try:
        outcome = found(machine, RemoteProbe(deadline_s=0.2))
    finally:
        machine.released.set()
    assert [a.product for a in outcome.accelerators] == ["lab"]
    assert [b.reason.split()[0] for b in outcome.broken] == ["stuck"]


@contextmanager
def served(answer) -> Iterator[str]:
    """A real endpoint on the loopback; `answer` gets the request."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def says(request, status: int, body: str, **headers: str) -> None:
    request.send_response(status)
    for name, value in {"content-length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body.encode())


def test_a_real_server_gets_the_key_and_nothing_of_it_is_kept(monkeypatch):
    def answer(request) -> None:
        right = request.headers["authorization"] == "Bearer hunter2"
        there = request.path == "/v1/models"
        says(request, 200 if right and there else 401, MODELS)

    with served(answer) as url:
        entry = {"url": url, "name": "lab", "api_key_env": "LAB_KEY", "allow_private": True}
        monkeypatch.setenv(REMOTE_ENV, json.dumps([entry]))
        monkeypatch.setenv("LAB_KEY", "hunter2")
        outcome = found(RealHost())
        assert outcome.broken == ()
        assert outcome.accelerators[0].health is Health.HEALTHY
        assert "hunter2" not in repr(outcome)
        monkeypatch.setenv("LAB_KEY", "other")
        assert "refuses the key" in found(RealHost()).broken[0].reason


def test_a_real_server_that_redirects_is_not_followed(monkeypatch):
    def answer(request) -> None:
        elsewhere = request.path.startswith("/elsewhere")
        says(request, 200 if elsewhere else 307, MODELS, location="/elsewhere/v1/models")

    with served(answer) as url:
        monkeypatch.setenv(REMOTE_ENV, json.dumps([{"url": url, "allow_private": True}]))
        assert "redirects" in found(RealHost()).broken[0].reason


def test_a_real_server_that_prints_without_end_is_given_up(monkeypatch):
    def answer(request) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            for _ in range(100):
                request.wfile.write(b" " * 2**20)
        except OSError:
            return

    with served(answer) as url:
        monkeypatch.setenv(REMOTE_ENV, json.dumps([{"url": url, "allow_private": True}]))
        assert "cannot be asked" in found(RealHost()).broken[0].reason


def test_a_real_server_on_this_machine_is_refused_by_name_too(monkeypatch):
    with served(lambda request: says(request, 200, MODELS)) as url:
        by_name = url.replace("127.0.0.1", "localhost")
        monkeypatch.setenv(REMOTE_ENV, json.dumps([{"url": by_name}]))
        assert "not public" in found(RealHost()).broken[0].reason


def test_nobody_listens(monkeypatch):
    with served(lambda request: None) as url:
        address = url
    monkeypatch.setenv(REMOTE_ENV, json.dumps([{"url": address, "allow_private": True}]))
    assert "cannot be asked" in found(RealHost()).broken[0].reason
