"""`apply_topics` on both brokers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from contracts.topics import TOPICS, Topic
from slipstream.cli import app
from slipstream.commands import topics as topics_command
from streams.event_log import LogUnavailable
from streams.kafka_log import KafkaEventLog
from streams.topics import TopicAction, TopicReport, apply_topics, compare_topics
from tests.kafka_fixtures import is_apache

pytestmark = pytest.mark.kafka


@pytest.fixture(params=["tansu", "apache"])
def bootstrap(request: pytest.FixtureRequest) -> str:
    if request.param == "tansu":
        return str(request.getfixturevalue("tansu_bootstrap"))
    found = str(request.getfixturevalue("kafka_bootstrap"))
    if not is_apache(found):
        pytest.skip("no Apache Kafka")
    return found


def declared(partitions: int = 2, retention_seconds: int = 3600) -> list[Topic]:
    return [
        Topic("events", partitions, "delete", retention_seconds, "user"),
        Topic("releases", 1, "compact", -1, "model"),
    ]


def named(topics: Sequence[Topic]) -> list[Topic]:
    """The same topics under names nobody else has."""
    prefix = uuid.uuid4().hex[:8]
    return [Topic(f"test.{prefix}.{t.name}", t.partitions, t.cleanup, t.retention_seconds, t.key) for t in topics]


def actions(reports: Sequence[TopicReport]) -> list[str]:
    return [report.action for report in reports]


def test_missing_topics_are_created_once_and_as_declared(bootstrap: str) -> None:
    topics = named(declared())
    assert [report.partitions for report in compare_topics(bootstrap, topics)] == [0, 0]
    first = apply_topics(bootstrap, topics)
    assert actions(first) == [TopicAction.CREATED] * 2
    assert [(report.partitions, report.replicas) for report in first] == [(2, 1), (1, 1)]
    again = apply_topics(bootstrap, topics)
    assert actions(again) == [TopicAction.UNCHANGED] * 2
    assert [report.drift for report in again] == [(), ()]


def test_a_setting_that_differs_is_reported_and_left_alone(bootstrap: str) -> None:
    topics = named(declared())
    apply_topics(bootstrap, topics)
    changed = [Topic(topics[0].name, 2, "delete", 7200, "user"), topics[1]]
    for _ in range(2):
        drift = [report.drift for report in apply_topics(bootstrap, changed)]
        assert drift == [("retention.ms=3600000, declared 7200000",), ()]


def test_partitions_are_added_and_never_removed(bootstrap: str) -> None:
    (topic, _) = named(declared(partitions=2))
    apply_topics(bootstrap, [topic])
    log = KafkaEventLog(bootstrap)
    assert len(log.partitions(topic.name)) == 2
    (grown,) = apply_topics(bootstrap, [Topic(topic.name, 3, "delete", 3600, "user")])
    if is_apache(bootstrap):
        assert (grown.action, grown.partitions) == (TopicAction.GROWN, 3)
        assert len(log.partitions(topic.name)) == 3  # seen at once, not after a cache has aged
    else:
        assert (grown.action, grown.partitions) == (TopicAction.REFUSED, 2)
    (fewer,) = apply_topics(bootstrap, [Topic(topic.name, 1, "delete", 3600, "user")])
    assert fewer.action is TopicAction.REFUSED
    assert "1 are declared" in fewer.problem
    log.close()


def test_no_broker_is_an_error_that_says_so() -> None:
    with pytest.raises(LogUnavailable, match="no Kafka broker answers"):
        apply_topics("127.0.0.1:1", named(declared()))


def test_the_command_creates_lists_and_says_what_is_wrong(
    tansu_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics_command.register(app)
    runner = CliRunner()
    applied = runner.invoke(app, ["topics", "apply", "--kafka", tansu_bootstrap, "--json"])
    assert applied.exit_code == 0
    assert [report["name"] for report in json.loads(applied.stdout)] == [topic.name for topic in TOPICS]
    monkeypatch.setenv("SLIPSTREAM_KAFKA", tansu_bootstrap)
    listed = runner.invoke(app, ["topics", "list"], env={"COLUMNS": "120"})
    assert listed.exit_code == 0
    assert TOPICS[0].name in listed.stdout
    wrong = runner.invoke(app, ["topics", "list", "--kafka", "nowhere"])
    assert wrong.exit_code == 2
    assert "'nowhere' is not HOST:PORT" in wrong.stderr
