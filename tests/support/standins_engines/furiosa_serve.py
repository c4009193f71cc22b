"""The real `furiosa-llm` command with a stand-in for the one part of it that needs a card: runs in the environment `furiosa`.

Real: its arguments, tokenizer, HTTP server, routes, streams, limits, metrics route and endings; and of the native engine, how it
reads the bundle and lays the devices out, up to the point where it opens a card. Stand-in: the tokens, and what the metrics say.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from typing import Any

from furiosa.llm_native import llm as native
from furiosa_llm.cli.main import main

VOCAB, EOS = 64, 2
CRASH_ID = 63
"""A prompt that begins with it makes the native engine die."""
TOKEN_S = 0.005

_Real = native.NativeLLMEngine


def next_id(ids: list[int]) -> int:
    """The id after a sequence: a function of all of it, so that a text goes on exactly wherever it was cut."""
    figure = zlib.crc32(bytes(ids))
    return EOS if figure % 41 == 0 else 3 + figure % (VOCAB - 4)


class StandIn:
    """See `furiosa_llm.api.NativeEngineLike`."""

    pooling_type = None

    def __init__(self, model_path: str, *rest: Any) -> None:
        try:
            _Real(model_path, *rest)
        except ValueError as error:
            if "HAL error" not in str(error):  # anything else is about the bundle or the devices
                raise
        self.max_model_len = rest[-1] or 4096
        self._ended = threading.Event()
        self._running: dict[str, bool] = {}

    async def stream_generate(self, inputs: Any, params: Any, request_id: str = "") -> Any:
        ids = list(inputs.input_ids)
        prompt = len(ids)
        if (params.top_k, params.repetition_penalty) != (-1, 1.0):
            raise ValueError("a default of the model's generation_config.json got through")
        if ids[0] == CRASH_ID:
            self._ended.set()
            raise RuntimeError("the card is gone")
        self._running[request_id] = True
        stops = set(params.stop_token_ids or ()) | {EOS}
        try:
            while self._running.get(request_id) and not self._ended.is_set():
                await asyncio.sleep(TOKEN_S)
                ids.append(next_id(ids))
                finish = None
                if ids[-1] in stops and not params.ignore_eos:
                    finish = "stop"
                elif len(ids) - prompt >= params.max_tokens:
                    finish = "length"
                told = native.NativeCompletionOutput(0, ids[-1:], None, None, finish)
                yield native.NativeRequestOutput([told], 0, prompt)
                if finish:
                    return
        finally:
            self._running.pop(request_id, None)

    def abort_request(self, request_id: str) -> None:
        self._running[request_id] = False

    def is_alive(self) -> bool:
        return not self._ended.is_set()

    def wait_until_terminated(self) -> None:
        self._ended.wait()

    def shutdown(self) -> None:
        self._ended.set()

    def reset_prefix_cache(self, target: str = "all") -> bool:
        return True

    def get_prometheus_metrics(self) -> str:
        running = sum(self._running.values())
        figures = {
            "num_requests_running": running,
            "num_requests_waiting": 0,
            "kv_cache_usage": running / 8,
        }
        return "".join(
            f'# TYPE furiosa_llm_{k} gauge\nfuriosa_llm_{k}{{model_name="m"}} {v}\n'
            for k, v in figures.items()
        )


if __name__ == "__main__":
    native.NativeLLMEngine = StandIn
    main()
