"""A stand-in for a vendor's OpenAI server, with faults on request. Standard library only: any interpreter can run it.

Its tokens are a function of the two before, so a text goes on exactly wherever it is cut, and ends by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

EOS = 2
FIRST, WORDS = 300, 1500
FAULTS = (
    "die-at-start", "hang-at-start", "no-tokens", "empty-text", "grey", "garbage-json", "half-frame", "no-finish", "no-done",
    "odd-finish", "in-band-error", "error-500", "error-503-once", "echo-prompt", "bad-ids", "bool-ids", "float-ids", "foreign-ids", "no-ids", "long-line",
    "bad-utf8", "html", "endless", "flood", "secrets", "exposed", "stubborn", "detached", "wrong-name", "slow-start",
    "die-at-first", "die-later", "overwrites-environment", "out-of-memory", "dead-engine", "temporary-files", "segments", "tracked-segments",
)  # fmt: skip


def following(before: int, last: int) -> int:
    """The token after two others; EOS ends the text."""
    mixed = (before * 31 + last * 17 + 7) * 2654435761 % 2**32
    return EOS if mixed % 61 == 0 else FIRST + mixed // 61 % WORDS


def continuation(ids: list[int], most: int, ignore_eos: bool) -> list[int]:
    """The tokens after a prompt, EOS included."""
    before, last = ([-1, *ids])[-2:]
    found: list[int] = []
    while len(found) < most:
        token = following(before, last)
        if token == EOS:
            if not ignore_eos:
                return [*found, EOS]
            token = FIRST
        found.append(token)
        before, last = last, token
    return found


class State:
    """What all requests share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.slots = threading.Semaphore(arguments.sequences)
        self.lock = threading.Lock()
        self.running = self.waiting = self.served = self.proofs = 0

    def count(self, running: int, waiting: int) -> None:
        with self.lock:
            self.running += running
            self.waiting += waiting


class Answers(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_: object) -> None:
        """Silent."""

    def fault(self, name: str) -> bool:
        return self.state.arguments.fault == name

    def address_string(self) -> str:
        return "client"

    def do_GET(self) -> None:
        name = "other" if self.fault("wrong-name") else self.state.arguments.served
        if self.path == "/health":
            self.send(200, {})
        elif self.path == "/v1/models":
            self.send(200, {"object": "list", "data": [{"id": name, "object": "model"}]})
        elif self.path == "/metrics":
            state = self.state
            text = (
                f'stand_in:running{{model="{name}"}} {state.running}.0\n'
                f"stand_in:waiting {state.waiting}.0\nstand_in:kv {state.running / state.arguments.sequences}\n"
            )
            self.send(200, text.encode(), "text/plain")
        else:
            self.send(404, {"error": {"message": "no such route"}})

    def send(self, status: int, body: object, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.state
        with state.lock:
            state.served += 1
            number = state.served
        faulty = number > state.arguments.after
        if (
            self.path not in ("/v1/completions", "/v1/chat/completions")
            or asked["model"] != state.arguments.served
        ):
            return self.send(
                404, {"error": {"message": f"no model {asked['model']!r}", "code": 404}}
            )
        prompt = asked.get("prompt") or [ord(c) for c in json.dumps(asked.get("messages"))]
        ids = [ord(c) for c in prompt] if isinstance(prompt, str) else prompt
        if len(ids) + asked["max_tokens"] > state.arguments.window:
            return self.send(400, {"error": {"message": f"too long: {ids}", "code": 400}})
        if faulty and self.refused(number, prompt):
            return None
        state.count(0, 1)
        state.slots.acquire()
        state.count(1, -1)
        try:
            self.stream(asked, ids, faulty)
        except OSError:
            self.close_connection = True
        finally:
            state.count(-1, 0)
            state.slots.release()
        return None

    def refused(self, number: int, prompt: object) -> bool:
        """Faults instead of a stream."""
        if self.fault("die-at-first") or self.fault("die-later"):
            say("worker 0: assertion failed: tensors are not None")
            os._exit(70)
        if self.fault("grey"):
            threading.Event().wait()
        if self.fault("error-500"):
            self.send(500, {"error": {"message": "internal trouble", "code": 500}})
        elif self.fault("error-503-once") and number <= self.state.arguments.after + 1:
            self.send(503, {"error": {"message": "warming up", "code": 503}})
        elif self.fault("dead-engine"):
            self.send(500, {"error": {"message": "EngineDeadError: see above", "code": 500}})
        elif self.fault("echo-prompt"):
            self.send(400, {"error": {"message": f"cannot read {prompt!r}"}})
        elif self.fault("html"):
            self.send(200, b"<html>welcome</html>", "text/html")
        else:
            return False
        return True

    def stream(self, asked: dict[str, object], ids: list[int], faulty: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if faulty and self.fault("no-tokens"):
            self.wait_for_end()
            return
        tokens = continuation(ids, int(str(asked["max_tokens"])), bool(asked.get("ignore_eos")))
        if faulty and self.fault("endless"):
            tokens = [FIRST] * 10**6
        if faulty and self.fault("empty-text"):
            self.event(
                {"choices": [{"index": 0, "text": "", "token_ids": [], "finish_reason": "length"}]}
            )
        elif not self.tokens(tokens, bool(asked.get("return_token_ids")), faulty):
            return
        if asked.get("stream_options"):
            self.event(
                {
                    "choices": [],
                    "usage": {"prompt_tokens": len(ids), "completion_tokens": len(tokens)},
                }
            )
        if not (faulty and self.fault("no-done")):
            self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def tokens(self, tokens: list[int], told: bool, faulty: bool) -> bool:
        """One event for each; False = a fault has ended the stream."""
        for number, token in enumerate(tokens):
            last = number == len(tokens) - 1
            if faulty and self.disturb(number):
                return False
            finish = self.finish(token, faulty) if last else None
            self.event(self.choice(token, finish, told, faulty))
            if not last:
                self.pace()
        return True

    def finish(self, token: int, faulty: bool) -> str | None:
        if faulty and self.fault("no-finish"):
            return None
        if faulty and self.fault("odd-finish"):
            return "content_filter"
        return "stop" if token == EOS else "length"

    def choice(self, token: int, finish: str | None, told: bool, faulty: bool) -> dict[str, object]:
        odd = {
            "bad-ids": [-1],
            "bool-ids": [True],
            "float-ids": [1.0],
            "foreign-ids": [4000],
            "no-ids": None,
        }
        text = "" if token == EOS else f" w{token}"
        choice: dict[str, object] = {
            "index": 0,
            "text": text,
            "logprobs": None,
            "finish_reason": finish,
        }
        if self.path.endswith("chat/completions"):
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
        if told:
            fault = self.state.arguments.fault
            choice["token_ids"] = odd[fault] if faulty and fault in odd else [token]
        return {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": self.state.arguments.served,
            "choices": [choice],
        }

    def disturb(self, number: int) -> bool:
        """Faults in the middle of a stream; True = it ends here."""
        if number < 3:
            return False
        broken = {
            "garbage-json": b"data: {nonsense\n\n",
            "bad-utf8": b'data: {"choices": [{"text": "\xff\xfe"}]}\n\n',
            "in-band-error": b'data: {"error": {"message": "out of KV memory", "code": 500}}\n\n',
        }
        if self.fault("half-frame"):
            self.wfile.write(b'40\r\ndata: {"choices": [{"ind')
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self.fault("long-line"):
            while True:
                self.chunk(b"data: " + b"x" * 65536)
        elif self.state.arguments.fault in broken:
            self.chunk(broken[self.state.arguments.fault])
            self.chunk(b"")
        else:
            return False
        return True

    def pace(self) -> None:
        """Waits for the next step; a client that hangs up ends the sequence at once."""
        given = self.state.arguments
        pause_s = given.pace + given.pace_per_sequence * self.state.running
        readable = select.select([self.connection], [], [], pause_s)[0]
        if readable and not self.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError

    def wait_for_end(self) -> None:
        select.select([self.connection], [], [])
        self.close_connection = True

    def event(self, event: dict[str, object]) -> None:
        self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


class Listening(socketserver.ThreadingMixIn, HTTPServer):
    """On a port or a unix socket."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: object, answers: type[Answers]) -> None:
        self.address_family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        super().__init__(address, answers)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, *_: object) -> None:
        """A client that hung up is no news."""


def say(*words: object) -> None:
    """A line of output."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def torn() -> None:
    say("loading weights")
    say("ValueError: the weights are torn")
    sys.exit(3)


def hang() -> None:
    say("waiting for the device")
    threading.Event().wait()


def tell_secrets() -> None:
    say("token is", os.environ.get("VENDOR_API_TOKEN"), "and HF_TOKEN=hf_abcdefghijklmnopqrst")


def leave_segment() -> None:
    """As after SIGKILL of whoever would have unlinked it."""
    from multiprocessing import resource_tracker, shared_memory

    segment = shared_memory.SharedMemory(create=True, size=1 << 20)
    resource_tracker.unregister(f"/{segment.name}", "shared_memory")
    DOORS.append(segment)


def keep_segment() -> None:
    """Python's own process unlinks it once this one is gone."""
    from multiprocessing import shared_memory

    DOORS.append(shared_memory.SharedMemory(create=True, size=1 << 20))


AT_START = {
    "die-at-start": torn,
    "out-of-memory": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang-at-start": hang,
    "slow-start": lambda: time.sleep(0.5),
    "secrets": tell_secrets,
    "stubborn": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "flood": lambda: threading.Thread(target=flood, daemon=True).start(),
    "detached": lambda: detach(False),
    "overwrites-environment": lambda: detach(True),
    "exposed": lambda: DOORS.append(socket.create_server(("0.0.0.0", 0))),
    "temporary-files": lambda: Path(os.environ["TMPDIR"], "left-behind").write_text("x"),
    "segments": leave_segment,
    "tracked-segments": keep_segment,
}
"""Faults before anybody listens."""

DOORS: list[object] = []


def flood() -> None:
    """1 GB as fast as it goes."""
    line = (b"x" * 199 + b"\n") * 5000
    for _ in range(1000):
        os.write(1, line)
    os.write(1, b"the flood is over\n")


def detach(overwrite: bool) -> None:
    """A grandchild in a session of its own whose parent has ended; if asked, without the marks in its environment."""
    blot = (
        "import ctypes; f = open('/proc/self/stat').read().rpartition(')')[2].split(); "
        "ctypes.memset(int(f[47]), 0, int(f[48]) - int(f[47])); "
    )
    code = (
        blot if overwrite else ""
    ) + "import time; print('detached', flush=True); time.sleep(600)"
    starter = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True,"
        " stdin=subprocess.DEVNULL)"
    )
    subprocess.run([sys.executable, "-c", starter, code], check=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--served", default="m")
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--pace-per-sequence", type=float, default=0.0)
    parser.add_argument("--fault", default="", choices=("", *FAULTS))
    parser.add_argument(
        "--after", type=int, default=1, help="requests that are answered well before a fault"
    )
    arguments = parser.parse_args()
    if arguments.fault in ("no-tokens", "empty-text", "die-at-first", "error-503-once"):
        arguments.after = 0
    AT_START.get(arguments.fault, lambda: None)()
    answers = type("Bound", (Answers,), {"state": State(arguments)})
    server = Listening(arguments.socket or ("127.0.0.1", arguments.port), answers)
    say("listening")
    server.serve_forever()


if __name__ == "__main__":
    main()
