"""What a replica tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_INFERENCE_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 4.0)
_SWAP_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0)


class ReplicaMetrics:
    """A replica's metrics in a registry of their own, so that several replicas fit into one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rank_total = Counter(
            "slipstream_replica_rank_total", "Recommendations by outcome.", ("outcome",), registry=self.registry
        )
        self.inference_seconds = Histogram(
            "slipstream_replica_inference_seconds",
            "Time of a recommendation in the engine, waiting for a swap not counted.",
            buckets=_INFERENCE_BUCKETS,
            registry=self.registry,
        )
        self.swap_seconds = Histogram(
            "slipstream_replica_swap_seconds",
            "Time of a swap's phases: read and stage while serving, drain and apply with requests held back.",
            ("phase",),
            buckets=_SWAP_BUCKETS,
            registry=self.registry,
        )
        self.swaps_total = Counter(
            "slipstream_replica_swaps_total", "Swaps by outcome.", ("outcome",), registry=self.registry
        )
        # A series that begins at 1 has no increase: the first refusal would alert nobody.
        for outcome in ("done", "refused"):
            self.swaps_total.labels(outcome)
        self.model_version = Gauge(
            "slipstream_replica_model_version", "The release being served; 0 before the first.", registry=self.registry
        )
        self._in_flight = Gauge(
            "slipstream_replica_in_flight", "Recommendations in the replica.", registry=self.registry
        )
        self._serving = Gauge(
            "slipstream_replica_serving", "1 while recommendations are taken.", registry=self.registry
        )

        self.store_up = Gauge(
            "slipstream_replica_store_up",
            "0 from when the release store could not be reached until a release was read.",
            registry=self.registry,
        )
        self.store_up.set(1)
        self.store_unavailable = Counter(
            "slipstream_replica_store_unavailable_total",
            "Releases that could not be read because the release store could not be reached.",
            registry=self.registry,
        )

    def watch(self, in_flight: Callable[[], float], serving: Callable[[], float]) -> None:
        """Read two gauges when they are scraped."""
        self._in_flight.set_function(in_flight)
        self._serving.set_function(serving)
