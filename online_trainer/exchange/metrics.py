"""What the coordinator tells Prometheus of the exchange, its own view and what workers report with each push."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from online_trainer.exchange.choice import EncodingChoice
from online_trainer.exchange.messages import Encoding, Pushed, Reason
from online_trainer.exchange.messages import Measured as Measurements

_STALENESS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class ExchangeMetrics:
    """Beside `TrainerMetrics`, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"slipstream_exchange_{name}_total", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"slipstream_exchange_{name}", text, labels, registry=registry)

        self.workers = gauge("workers", "Workers that take part.")
        self.staleness = Histogram(
            "slipstream_exchange_staleness",
            "Orders between the weights a push was computed on and its own.",
            buckets=_STALENESS,
            registry=registry,
        )
        self.pushes = counter("pushes", "Pushes that were ordered.", "worker")
        self.refused = counter("refused", "Requests that were refused, by reason.", "reason")
        for reason in Reason:
            self.refused.labels(reason.value)
        self.wire_bytes = counter("wire_bytes", "Bytes on workers' connections, framing included.", "direction")
        self.dense_bytes = counter("dense_bytes", "What workers' updates would have been as fp32, in bytes.")
        self.exchange_seconds = counter("seconds", "Workers' exchange time.", "kind")
        self.compute_seconds = counter("compute_seconds", "Workers' time on batches.", "worker")
        self.speed = gauge("events_per_second", "A worker's measured speed.", "worker")
        self.batch_events = gauge("batch_events", "Events a worker's batches should have.", "worker")
        self.moves = counter("partition_moves", "Partitions that changed hands.")
        self.lost = counter("lost_workers", "Workers that were lost.")
        self.lost_residual = gauge("lost_residual_norm", "Norm of the unsent residual of the last worker lost.")
        self.nonfinite = counter(
            "nonfinite_elements", "Gradient elements that were not finite and not sent. Alert on any increase."
        )
        self.compressed = gauge("compressed", "1 while pushes are compressed, 0 while they are dense bf16.")
        self.push_seconds = gauge(
            "push_seconds", "Encode, link and decode of a push, lower quartile, where measured.", "encoding"
        )
        self.full_shards = gauge("full_shards", "Other owners whose disk is full: pushes wait for them.")
        self.unsynced = gauge("unsynced_orders", "Orders that wait for room on the disk.")

    def count(self, pushed: Pushed, measured: Measurements) -> None:
        """An ordered push."""
        self.staleness.observe(pushed.staleness)
        self.pushes.labels(pushed.worker).inc()
        self.wire_bytes.labels("sent").inc(measured.sent_bytes)
        self.wire_bytes.labels("received").inc(measured.received_bytes)
        self.dense_bytes.inc(measured.dense_bytes)
        self.exchange_seconds.labels("exposed").inc(measured.waited_seconds)
        self.exchange_seconds.labels("hidden").inc(measured.hidden_seconds)
        self.exchange_seconds.labels("encode").inc(measured.encode_seconds)
        self.compute_seconds.labels(pushed.worker).inc(measured.compute_seconds)
        self.nonfinite.inc(measured.nonfinite)
        if pushed.encoding is not Encoding.NONE:
            self.compressed.set(pushed.encoding is Encoding.COMPRESSED)

    def show(self, choice: EncodingChoice) -> None:
        """What both encodings were measured to take."""
        for encoding, compressed in (("compressed", True), ("dense", False)):
            self.push_seconds.labels(encoding).set(choice.seconds(compressed))
