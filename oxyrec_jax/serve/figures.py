"""What a server counts, for Prometheus; docs/serving.md tells what each means."""

from collections.abc import Sequence

from prometheus_client import (CollectorRegistry, Counter, Gauge, Histogram,
                               ProcessCollector, generate_latest)

_SECONDS = (.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Figures:
    """Counts of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._responses = Counter(
            "oxyrec_responses", "Responses by endpoint and status.",
            ["endpoint", "status"], registry=registry)
        self._latency = Histogram(
            "oxyrec_request_seconds", "From a request's last byte to its response.",
            ["endpoint"], buckets=_SECONDS, registry=registry)
        self._refused = Counter(
            "oxyrec_refused", "Requests without an answer, by reason.", ["reason"],
            registry=registry)
        self._failed = Counter(
            "oxyrec_failed_batches", "Batches that raised, by kind: memory or other.",
            ["kind"], registry=registry)
        self._size = Histogram(
            "oxyrec_batch_requests", "Requests computed together.", buckets=_SIZES,
            registry=registry)
        self._empty = Counter(
            "oxyrec_batch_empty_rows", "Rows of batches that no request filled.",
            registry=registry)
        self._compute = Histogram(
            "oxyrec_batch_seconds", "Time of a batch on the engine's thread.",
            buckets=_SECONDS, registry=registry)
        self._waiting = Gauge("oxyrec_queue_requests", "Requests that wait.",
                              registry=registry)
        self._compiled = Gauge("oxyrec_compiled_programs", "Programs compiled so far.",
                               registry=registry)
        self._histories = Counter(
            "oxyrec_histories", "Histories of requests by whether their encoding was "
            "kept: hit or miss.", ["found"], registry=registry)
        self._kept = Gauge("oxyrec_kept_histories", "Encoded histories that are kept.",
                           registry=registry)
        self._kept_bytes = Gauge("oxyrec_kept_history_bytes", "Bytes of these.",
                                 registry=registry)
        self._program = Gauge(
            "oxyrec_program_seconds", "What a batch of each program takes when nothing "
            "disturbs it.", ["batch", "length", "filtered"], registry=registry)
        self._version = Gauge("oxyrec_version", "1 for the version that answers.",
                              ["version"], registry=registry)
        self._instructions = Counter(
            "oxyrec_instructions", "Instructions by where they came from; what is "
            "neither asked nor store is the default and why.", ["source"],
            registry=registry)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self._registry)

    def response(self, endpoint: str, status: int, seconds: float) -> None:
        """Counts a response."""
        self._responses.labels(endpoint, str(status)).inc()
        self._latency.labels(endpoint).observe(seconds)

    def refused(self, reason: str) -> None:
        """Counts a request that got no answer."""
        self._refused.labels(reason).inc()

    def failed(self, kind: str) -> None:
        """Counts a batch that raised."""
        self._failed.labels(kind).inc()

    def batch(self, requests: int, rows: int, seconds: float) -> None:
        """Counts a batch."""
        self._size.observe(requests)
        self._empty.inc(max(0, rows - requests))
        self._compute.observe(seconds)

    def histories(self, hits: int, misses: int) -> None:
        """Counts how many histories of a batch were encoded already."""
        self._histories.labels("hit").inc(hits)
        self._histories.labels("miss").inc(misses)

    def kept(self, histories: int, size: int) -> None:
        """Says how many encoded histories are kept, and their bytes."""
        self._kept.set(histories)
        self._kept_bytes.set(size)

    def program(self, batch: int, length: int, filtered: bool, seconds: float) -> None:
        """Says what a batch of a program takes."""
        self._program.labels(str(batch), str(length), str(int(filtered))).set(seconds)

    def waits(self, requests: int) -> None:
        """Says how many requests wait."""
        self._waiting.set(requests)

    def version(self, name: str, compiled: int) -> None:
        """Says which version answers, and how many programs there are."""
        self._version.clear()
        self._version.labels(name).set(1)
        self._compiled.set(compiled)

    def instructions(self, told: Sequence[dict[str, object]]) -> None:
        """Counts where the instructions of a batch came from."""
        for one in told:
            source = str(one["source"])
            why = str(one.get("why", "default"))
            self._instructions.labels(why if source == "default" else source).inc()
