"""The demo's verdict."""

import io

import msgspec
import pytest
from rich.console import Console

from slipstream.demo.report import DemoReport

GOOD = DemoReport(
    seconds=200,
    freshness_p50_seconds=1.5,
    freshness_p99_seconds=3,
    requests=4000,
    dropped=0,
    mixed_version=0,
    releases_served=20,
    latency_p99_quiet_ms=30,
    latency_p99_swap_ms=40,
    ndcg_frozen=0.09,
    ndcg_online=0.1,
    ndcg_popular_7_days=0.03,
    ndcg_gain_low=0.001,
    oracle_compared=3000,
    oracle_agreed=3000,
    oracle_changed=2000,
    events_acknowledged=10,
    events_trained=10,
)


def test_a_good_run_breaks_nothing_and_reaches_every_goal() -> None:
    assert GOOD.broken() == []
    assert all(reached for *_, reached in GOOD.rows())


@pytest.mark.parametrize(
    "change",
    [{"dropped": 1}, {"mixed_version": 1}, {"oracle_agreed": 2999}, {"releases_served": 4}, {"events_trained": 9}],
    ids=str,
)
def test_a_broken_promise_is_named(change: dict[str, int]) -> None:
    report = msgspec.structs.replace(GOOD, **change)
    assert len(report.broken()) == 1
    assert not all(reached for *_, reached in report.rows())


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": 241},
        {"freshness_p50_seconds": 2.1},
        {"freshness_p99_seconds": float("inf")},
        {"latency_p99_swap_ms": 46.0},
        {"ndcg_gain_low": 0.0},
        {"ndcg_frozen": 0.02},
        {"oracle_changed": 500},
        {"requests": 1999},
    ],
    ids=str,
)
def test_a_goal_that_was_missed_is_shown_but_breaks_no_promise(change: dict[str, float]) -> None:
    report = msgspec.structs.replace(GOOD, **change)
    assert report.broken() == []
    assert not all(reached for *_, reached in report.rows())
    text = io.StringIO()
    report.show(Console(file=text, width=160))
    assert " no " in text.getvalue()
