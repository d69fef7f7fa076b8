"""What a gateway can be told; `slipstream gateway` has an option for what operators change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """Bounds and patience of one gateway.

    Attributes:
        replicas: base URLs of the serving replicas, e.g. `http://127.0.0.1:8100`.
        max_body_bytes: a larger request body gets 413. 500 events of the longest legal fields take 0.8 MB.
        default_deadline_seconds: for a recommendation without `X-Deadline-Ms`.
        ack_timeout_seconds: how long `POST /v1/events` waits for the log before it says 503.
        max_pending_events: events waiting for the log's acknowledgement; past it new batches get 503.
        future_tolerance_seconds: how far ahead of our clock an event's timestamp may be.
        history_length: a user's last items kept for the prompt; the replica cuts further to its window.
        seen_limit: a user's distinct items kept for exclusion.
        dedupe_window: event ids remembered; a repeat within it is a duplicate.
        exclude_seen: never recommend what the user has seen; off where people take an item again.
        status_interval_seconds, status_timeout_seconds: polling of each replica's `/v1/status`.
        swap_timeout_seconds: for one replica to stage or to commit a release.
        shutdown_seconds: how long requests in flight may finish after SIGTERM.
    """

    replicas: tuple[str, ...]
    max_body_bytes: int = 1 << 20
    default_deadline_seconds: float = 5.0
    ack_timeout_seconds: float = 5.0
    max_pending_events: int = 20_000
    future_tolerance_seconds: float = 300.0
    history_length: int = 256
    seen_limit: int = 10_000
    dedupe_window: int = 200_000
    exclude_seen: bool = True
    status_interval_seconds: float = 0.5
    status_timeout_seconds: float = 2.0
    swap_timeout_seconds: float = 60.0
    shutdown_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Raises ValueError: no replica, one named twice, or an address that is no URL."""
        if not self.replicas or len(set(self.replicas)) != len(self.replicas):
            raise ValueError(f"replicas {list(self.replicas)}: name at least one, and each once")
        for url in self.replicas:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"replica {url!r} is not a URL: write http://HOST:PORT")
