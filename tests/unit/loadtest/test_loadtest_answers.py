"""What many answers say together, and what counts as dropped."""

from __future__ import annotations

import msgspec
import pytest

from loadtest.answers import Answer, summarise
from loadtest.report import measurements
from loadtest.slo import Levels, Measured, broken


def answer(due_at: float, seconds: float, **more: object) -> Answer:
    base = {"due_at": due_at, "sent_at": due_at, "received_at": due_at + seconds, "user_id": "u", "status": 200}
    return Answer(**(base | more))  # type: ignore[arg-type]


def test_latency_counts_from_when_a_request_was_due() -> None:
    late = answer(100.0, 0.5, sent_at=100.4)
    assert late.latency_seconds == 0.5
    summary = summarise([late])
    assert summary.max_ms == pytest.approx(500, rel=0.002)
    assert summary.late_p99_ms == pytest.approx(400, rel=0.002)


def test_percentiles_rate_and_counts() -> None:
    answers = [answer(i * 0.01, (i + 1) / 1000, model_version=1 + i // 50, replica="ab"[i % 2]) for i in range(100)]
    summary = summarise(answers)
    assert (summary.p50_ms, summary.p99_ms) == (pytest.approx(50, rel=0.01), pytest.approx(99, rel=0.01))
    assert summary.rate == pytest.approx(100)
    assert summary.versions == {1: 50, 2: 50}
    assert summary.replicas == {"a": 50, "b": 50}


def test_dropped_is_a_failure_or_a_fallback_that_one_caused() -> None:
    answers = [
        answer(0, 0.1, model_version=1),
        answer(1, 0.1, fallback="cold_start"),
        answer(2, 0.1, fallback="replica_failed"),
        answer(3, 0.1, fallback="deadline"),
        answer(4, 0.1, fallback="no_replica"),
        answer(5, 0.1, status=503),
        answer(6, 0.1, status=0, error="ClientOSError"),
    ]
    summary = summarise(answers)
    assert (summary.requests, summary.failures, summary.fallbacks, summary.dropped) == (7, 2, 4, 5)


def test_nothing_at_all_is_all_zero() -> None:
    summary = summarise([])
    assert (summary.requests, summary.p99_ms, summary.rate) == (0, 0.0, 0.0)


def test_the_last_line_has_a_row_for_each_number() -> None:
    line = msgspec.json.decode(measurements("loadtest open-loop", summarise([answer(0, 0.1), answer(1, 0.1)])))
    assert set(line) == {"command", "version", "machine", "rows"}
    rows = {row["name"]: row for row in line["rows"]}
    assert rows["requests"]["value"] == 2
    assert rows["dropped"]["goal"] == 0
    assert all(set(row) == {"name", "value", "unit", "goal", "better", "baseline"} for row in line["rows"])


LEVELS = Levels(p99_ms=100, failure_ratio=0.0, fallback_ratio=0.01)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"p99_ms": 100.5}, ["p99_ms"]),
        ({"failure_ratio": 0.001}, ["failure_ratio"]),
        ({"fallback_ratio": 0.02, "p99_ms": 1000}, ["p99_ms", "fallback_ratio"]),
        ({"requests": 0}, ["no request"]),
    ],
)
def test_each_level_is_judged(changed: dict[str, float], missed: list[str]) -> None:
    kept = {"requests": 10, "p99_ms": 100.0, "failure_ratio": 0.0, "fallback_ratio": 0.01}
    sentences = broken(LEVELS, Measured(**(kept | changed)))  # type: ignore[arg-type]
    assert [sentence.startswith(name) for sentence, name in zip(sentences, missed, strict=True)] == [True] * len(missed)
