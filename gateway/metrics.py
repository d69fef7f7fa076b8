"""Prometheus metrics of one gateway. Labels come from bounded sets: ids never, a client's own words only so far."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contracts import topics

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class BoundedLabel:
    """Lets the first `limit` values of a client-chosen label through; every later one becomes `other`."""

    def __init__(self, limit: int = 20) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._known:
            if len(self._known) >= self._limit:
                return "other"
            self._known.add(value)
        return value


class GatewayMetrics:
    """The gateway's metrics in a registry of their own, so that two gateways in one process stay apart."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._scenario, self._event_type = BoundedLabel(), BoundedLabel()
        self._requests = Histogram(
            "slipstream_http_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route", "method", "status"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._recommendations = Counter(
            "slipstream_recommendations",
            "Answers by what made them: model, or the fallback's reason.",
            ["scenario", "outcome"],
            registry=registry,
        )
        self._events = Counter(
            "slipstream_events",
            "Events by outcome: accepted, duplicate, rejected, unacknowledged.",
            ["type", "outcome"],
            registry=registry,
        )
        self.ack_seconds = Histogram(
            "slipstream_event_ack_seconds",
            "From a batch's arrival to the log's acknowledgement.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.unreadable_records = Counter(
            "slipstream_unreadable_records",
            "Records of a topic that could not be decoded and were passed over.",
            ["topic"],
            registry=registry,
        )
        # A series that begins at 1 has no increase: the first bad record would alert nobody.
        for topic in (topics.EVENTS, topics.ITEMS, topics.RELEASES):
            self.unreadable_records.labels(topic)
        self.log_up = Gauge("slipstream_log_up", "1 while the event log answers.", registry=registry)
        self._replica_metrics(registry)

    def _replica_metrics(self, registry: CollectorRegistry) -> None:
        self.replica_up = Gauge(
            "slipstream_replica_up", "1 while a replica takes requests.", ["replica"], registry=registry
        )
        self.weight_version = Gauge(
            "slipstream_weight_version", "The version a replica serves.", ["replica"], registry=registry
        )
        self.replica_seconds = Histogram(
            "slipstream_replica_request_seconds",
            "One request to a replica.",
            ["replica", "outcome"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.retries = Counter(
            "slipstream_replica_retries", "Recommendations asked a second time of another replica.", registry=registry
        )
        self.swap_seconds = Histogram(
            "slipstream_weight_swap_seconds",
            "Steps of a rollout on one replica.",
            ["phase", "outcome"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.rollout_paused = Gauge("slipstream_rollout_paused", "1 while the rollout is paused.", registry=registry)
        self.live_version = Gauge("slipstream_live_version", "The version last made live.", registry=registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Observe one HTTP request."""
        known = method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE") else "other"
        self._requests.labels(route, known, str(status)).observe(seconds)

    def recommendation(self, scenario: str, outcome: str) -> None:
        """Count one answer."""
        self._recommendations.labels(self._scenario(scenario), outcome).inc()

    def events(self, event_type: str, outcome: str, count: int = 1) -> None:
        """Count events; `any` is the type of those that were not looked at one by one."""
        self._events.labels(self._event_type(event_type), outcome).inc(count)
