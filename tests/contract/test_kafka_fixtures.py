"""The fixtures keep tests apart from one another, and a run without Apache Kafka says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.topics import EVENTS
from streams.kafka_log import KafkaEventLog

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize("_round", range(2))
def test_the_declared_topics_are_empty_at_every_start(clean_kafka: str, event_log: KafkaEventLog, _round: int) -> None:
    partitions = event_log.partitions(EVENTS)
    assert set(event_log.end_offsets(partitions).values()) == {0}
    assert event_log.produce(EVENTS, b"user", b"value").result(10).offset == 0


def _run_a_kafka_test(**environment: str) -> subprocess.CompletedProcess[str]:
    hidden = {"KAFKA_HOME", "SLIPSTREAM_TEST_KAFKA", "SLIPSTREAM_REQUIRE_KAFKA"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    test = f"{Path(__file__)}::test_the_declared_topics_are_empty_at_every_start"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_apache_kafka_the_last_lines_say_what_was_not_shown() -> None:
    run = _run_a_kafka_test()
    assert run.returncode == 0, run.stdout
    assert "NOT SHOWN" in "".join(run.stdout.splitlines()[-2:-1])
    assert "ran on Tansu" in run.stdout.splitlines()[-1]


def test_where_apache_kafka_is_required_its_absence_is_a_failure(tansu_bootstrap: str) -> None:
    for given in ({}, {"SLIPSTREAM_TEST_KAFKA": tansu_bootstrap}):
        run = _run_a_kafka_test(SLIPSTREAM_REQUIRE_KAFKA="1", **given)
        assert run.returncode != 0
        assert "SLIPSTREAM_REQUIRE_KAFKA is set" in run.stdout
