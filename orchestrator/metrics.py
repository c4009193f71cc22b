"""Every metric of a gateway, declared once, with its unit in its name. Labels never carry what a client made up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class GatewayMetrics:
    """The families of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "shardyard_requests_total",
            "Answered requests.",
            ("route", "model", "status"),
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "shardyard_request_seconds",
            "From the first byte of a request to the last byte of its answer.",
            ("route", "model"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._first_token_seconds = Histogram(
            "shardyard_first_token_seconds",
            "From the first byte of a request to its first token.",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._prompt_tokens = Counter(
            "shardyard_prompt_tokens_total",
            "Prompt tokens of complete answers.",
            ("model",),
            registry=self.registry,
        )
        self._completion_tokens = Counter(
            "shardyard_completion_tokens_total",
            "Generated tokens of complete answers.",
            ("model",),
            registry=self.registry,
        )
        self._retries = Counter(
            "shardyard_retries_total",
            "Attempts on another replica.",
            ("reason",),
            registry=self.registry,
        )
        self.running = Gauge(
            "shardyard_requests_running", "Requests in this gateway.", registry=self.registry
        )
        self.client_gone = Counter(
            "shardyard_clients_gone_total",
            "Requests whose client hung up.",
            registry=self.registry,
        )
        self.broken_streams = Counter(
            "shardyard_broken_streams_total",
            "Streams that ended with an error after their first byte.",
            registry=self.registry,
        )
        self._request = cache(self._requests.labels)
        self._duration = cache(self._request_seconds.labels)
        self._first = cache(self._first_token_seconds.labels)
        self._tokens = cache(
            lambda m: (self._prompt_tokens.labels(m), self._completion_tokens.labels(m))
        )

    def answered(self, route: str, model: str, status: int, seconds: float) -> None:
        """Counts one answer. `route` and `model` are names of ours, or empty."""
        self._request(route, model, str(status)).inc()
        self._duration(route, model).observe(seconds)

    def first_token(self, model: str, seconds: float) -> None:
        """Notes the time to a first token."""
        self._first(model).observe(seconds)

    def completed(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts the tokens of a complete answer."""
        prompt, completion = self._tokens(model)
        prompt.inc(prompt_tokens)
        completion.inc(completion_tokens)

    def retried(self, reason: str) -> None:
        """Counts an attempt on another replica."""
        self._retries.labels(reason).inc()

    def watch_replicas(self, rows: Callable[[], Iterable[tuple[str, bool, int]]]) -> None:
        """Reports each replica's readiness and load whenever the metrics are read."""
        self.registry.register(ReplicaGauges(rows))

    def exposition(self) -> bytes:
        """All families in the text format."""
        return generate_latest(self.registry)


class ReplicaGauges(Collector):
    """Reads the state of replicas at the time of a scrape, so that a replica that is gone leaves no series behind.

    Args:
        rows: slot, whether it is ready, requests in it; read at every scrape.
    """

    def __init__(self, rows: Callable[[], Iterable[tuple[str, bool, int]]]) -> None:
        self._rows = rows

    def collect(self) -> Iterable[Metric]:
        """The two families."""
        ready = GaugeMetricFamily(
            "shardyard_replica_ready", "1 when requests may go there.", labels=("slot",)
        )
        outstanding = GaugeMetricFamily(
            "shardyard_replica_outstanding_requests", "Requests in a replica.", labels=("slot",)
        )
        for slot, is_ready, requests in self._rows():
            ready.add_metric((slot,), float(is_ready))
            outstanding.add_metric((slot,), requests)
        return (ready, outstanding)
