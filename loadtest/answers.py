"""What a driver keeps of each request, and what many of them say together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from hdrh.histogram import HdrHistogram

from contracts.replica import ScoredItem

T = TypeVar("T")
_MAX_MICROSECONDS = 120_000_000
_DIGITS = 3
FAILURE_FALLBACKS = frozenset({"no_replica", "replica_failed", "deadline"})
"""Of `RecommendationAnswer.fallback`: popularity because something broke, not because nobody is known."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request and what became of it; all times are `time.time()`, seconds.

    Attributes:
        due_at: when it should have been sent.
        sent_at: when it was. Later than `due_at` when the driver was late, which is not the gateway's fault, or
            when the driver waited for it, which is; latency counts from `due_at` either way.
        received_at: when the answer's last byte was here, or when the driver gave up.
        user_id: who asked.
        status: HTTP; 0 when there was no answer.
        error: why there was none.
        history_length: how many of the user's events the answer was computed from and around.
        model_version, fallback: as the answer says; one of them is None.
        replica: which one ranked.
        items: best first.
    """

    due_at: float
    sent_at: float
    received_at: float
    user_id: str
    status: int
    error: str = ""
    history_length: int | None = None
    model_version: int | None = None
    fallback: str | None = None
    replica: str | None = None
    items: list[ScoredItem] = []

    @property
    def latency_seconds(self) -> float:
        """From when it was due."""
        return self.received_at - self.due_at

    @property
    def failed(self) -> bool:
        """No answer, or none with a list."""
        return self.status != 200

    @property
    def dropped(self) -> bool:
        """Failed, or a fallback that a failure caused (a cold start is none)."""
        return self.failed or self.fallback in FAILURE_FALLBACKS


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Many answers.

    Attributes:
        rate: requests due a second, from the first to the last.
        failures: without a list.
        fallbacks: popularity in the model's place, for whatever reason.
        dropped: failures, and fallbacks that a failure caused.
        p50_ms, p90_ms, p99_ms, max_ms: latency from when each was due, failures included.
        late_p99_ms: how late the driver sent; when this is large, the driver is what was measured.
        versions, replicas: answers by each.
    """

    requests: int
    rate: float
    failures: int
    fallbacks: int
    dropped: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float
    versions: dict[int, int]
    replicas: dict[str, int]


def summarise(answers: Iterable[Answer]) -> Summary:
    """`answers` in one `Summary`; all zero for none."""
    kept = list(answers)
    latency = _histogram(answer.latency_seconds for answer in kept)
    late = _histogram(answer.sent_at - answer.due_at for answer in kept)
    span = max((a.due_at for a in kept), default=0.0) - min((a.due_at for a in kept), default=0.0)
    return Summary(
        requests=len(kept),
        rate=(len(kept) - 1) / span if span > 0 else 0.0,
        failures=sum(answer.failed for answer in kept),
        fallbacks=sum(answer.fallback is not None for answer in kept),
        dropped=sum(answer.dropped for answer in kept),
        p50_ms=_milliseconds(latency, 50),
        p90_ms=_milliseconds(latency, 90),
        p99_ms=_milliseconds(latency, 99),
        max_ms=_milliseconds(latency, 100),
        late_p99_ms=_milliseconds(late, 99),
        versions=_count(answer.model_version for answer in kept),
        replicas=_count(answer.replica for answer in kept),
    )


def _histogram(seconds: Iterable[float]) -> HdrHistogram:
    histogram = HdrHistogram(1, _MAX_MICROSECONDS, _DIGITS)
    for value in seconds:
        histogram.record_value(min(max(1, round(value * 1e6)), _MAX_MICROSECONDS))
    return histogram


def _milliseconds(histogram: HdrHistogram, percentile: float) -> float:
    return float(histogram.get_value_at_percentile(percentile)) / 1000 if histogram.total_count else 0.0


def _count(values: Iterable[T | None]) -> dict[T, int]:
    return dict(Counter(value for value in values if value is not None))
