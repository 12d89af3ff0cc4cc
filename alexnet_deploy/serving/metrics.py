"""What a server counts: for Prometheus, and for the protocol's own statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from alexnet_deploy.errors import AlexnetDeployError, ClientGone, InputError, Overloaded, PictureError, ServingError
from alexnet_deploy.serving.batching import BatchRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MODEL = ("model", "version")


@dataclass(slots=True)
class Duration:
    """How often, and how long in all, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.ns += int(seconds * 1e9)


@dataclass(slots=True)
class Statistics:
    """One model version since it was first loaded, as the protocol's statistics extension names it.

    Attributes:
        inference_count: rows answered.
        execution_count: calls of the engine.
        last_inference: milliseconds since the epoch.
    """

    inference_count: int = 0
    execution_count: int = 0
    last_inference: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)


class Metrics:
    """All counters of one server, in a registry of its own."""

    def __init__(self, waiting_rows: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._statistics: dict[tuple[str, str], Statistics] = {}
        prefix = "alexnet_deploy"
        self._requests = Counter(
            f"{prefix}_requests", "Requests answered", (*_MODEL, "protocol", "outcome"), registry=self._registry
        )
        self._request_s = Histogram(
            f"{prefix}_request_seconds",
            "From a request's last byte to its answer",
            _MODEL,
            registry=self._registry,
            buckets=_LATENCY_S,
        )
        self._queue_s = Histogram(
            f"{prefix}_queue_seconds", "Wait for the engine", _MODEL, registry=self._registry, buckets=_LATENCY_S
        )
        self._engine_s = Histogram(
            f"{prefix}_engine_seconds", "One call of the engine", _MODEL, registry=self._registry, buckets=_LATENCY_S
        )
        self._batch_rows = Histogram(
            f"{prefix}_batch_rows", "Rows in one call of the engine", _MODEL, registry=self._registry, buckets=_ROWS
        )
        waiting = Gauge(f"{prefix}_waiting_rows", "Rows let in and not answered yet", registry=self._registry)
        waiting.set_function(waiting_rows)

    def text(self) -> bytes:
        """The metrics as Prometheus reads them."""
        return generate_latest(self._registry)

    def statistics(self, model: str, version: str) -> Statistics:
        return self._statistics.setdefault((model, version), Statistics())

    def recorder(self, model: str, version: str) -> Callable[[BatchRecord], None]:
        """What a Batcher of this model tells its batches to."""
        statistics = self.statistics(model, version)
        engine_s, batch_rows, queue_s = (m.labels(model, version) for m in (self._engine_s, self._batch_rows, self._queue_s))

        def record(batch: BatchRecord) -> None:
            statistics.inference_count += batch.rows
            statistics.execution_count += 1
            statistics.last_inference = time.time_ns() // 1_000_000
            statistics.compute_infer.add(batch.seconds * len(batch.waited_s), len(batch.waited_s))
            engine_s.observe(batch.seconds)
            batch_rows.observe(batch.rows)
            for waited_s in batch.waited_s:
                statistics.queue.add(waited_s)
                queue_s.observe(waited_s)

        return record

    @contextmanager
    def request(self, model: str, version: str, protocol: str) -> Iterator[None]:
        """Counts and times the request that the block answers."""
        start = time.perf_counter()
        outcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except AlexnetDeployError as error:
            outcome = outcome_of(error)
            raise
        except Exception:
            outcome = "error"
            raise
        finally:
            seconds = time.perf_counter() - start
            statistics = self.statistics(model, version)
            (statistics.success if outcome == "ok" else statistics.fail).add(seconds)
            self._requests.labels(model, version, protocol, outcome).inc()
            if outcome == "ok":
                self._request_s.labels(model, version).observe(seconds)

    def shed(self, model: str, version: str, protocol: str) -> None:
        """Counts a request that was turned away before it was read."""
        self.statistics(model, version).fail.add(0.0)
        self._requests.labels(model, version, protocol, "shed").inc()

    def totals(self) -> dict[str, int]:
        """Requests by outcome, over all models."""
        totals: dict[str, int] = {}
        for metric in self._requests.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    outcome = sample.labels["outcome"]
                    totals[outcome] = totals.get(outcome, 0) + int(sample.value)
        return totals


def outcome_of(error: AlexnetDeployError) -> str:
    """A word for what became of a request: "shed", "cancelled", "refused" (the client's fault) or "error" (ours)."""
    if isinstance(error, Overloaded):
        return "shed"
    if isinstance(error, ClientGone):
        return "cancelled"
    if isinstance(error, (InputError, PictureError, ServingError)):
        return "refused"
    return "error"
