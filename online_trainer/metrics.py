"""What the trainer tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from online_trainer.ledger import Untrained
from releases.store_watch import StoreWatch

_RELEASE_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class TrainerMetrics:
    """One trainer's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.steps = self._counter("steps", "Optimizer steps applied.")
        self.examples = self._counter("examples", "Events trained.")
        self.loss = self._gauge("loss", "Mean negative log-probability of the last batch's events, in nats.")
        self.ndcg_sum = self._counter("ndcg_at_10", "Sum of NDCG@10, each event scored before it is trained.")
        self.lag_events = self._gauge("lag_events", "Events in the log that no batch has taken.")
        self.lag_seconds = self._gauge("lag_seconds", "Age of the newest record of the last batch when it was trained.")
        self.release_seconds = Histogram(
            "slipstream_trainer_release_seconds",
            "Checkpoint, publish and announce: how long training stood still.",
            buckets=_RELEASE_BUCKETS,
            registry=self.registry,
        )
        self.release_bytes = self._gauge("release_bytes", "Tensor bytes of the last release.")
        self.release_density = self._gauge("release_density", "Share of the weights that the last release changed.")
        self.version = self._gauge("version", "Newest version this trainer has published.")
        self.untrained = Counter(
            "slipstream_trainer_untrained_total",
            "Records that were not trained, by reason.",
            ["reason"],
            registry=self.registry,
        )
        for reason in Untrained:
            self.untrained.labels(reason.value)
        self.items = self._gauge("items", "Items the model knows.")
        self.items_without_slot = self._gauge(
            "items_without_slot", "Items of the items topic for which the model has no reserved slot left."
        )
        self.non_finite = self._counter(
            "non_finite", "Batches refused for a loss, gradient or weight that is not finite. Alert on any increase."
        )
        self.publish_failures = self._counter("publish_failures", "Releases that could not be written or announced.")
        self.disk_full = self._gauge("disk_full", "1 while the disk is full: training goes on, publishing does not.")
        self.log_up = self._gauge("log_up", "1 while the event log answers.")
        self.log_up.set(1)
        self.store_up = self._gauge("store_up", "0 from when the release store could not be reached until it was.")
        self.store_up.set(1)
        self.store_unavailable = self._counter(
            "store_unavailable", "Times that the release store was asked and could not be reached."
        )

    def watch_store(self, effect: str) -> StoreWatch:
        """One that shows in these metrics; `effect` is for its log."""
        return StoreWatch(effect, self.store_up.set, self.store_unavailable.inc)

    def count_arrivals(self, reasons: Iterable[Untrained]) -> None:
        """Count the records that will not be trained."""
        for reason in reasons:
            self.untrained.labels(reason.value).inc()

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"slipstream_trainer_{name}_total", text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"slipstream_trainer_{name}", text, registry=self.registry)
