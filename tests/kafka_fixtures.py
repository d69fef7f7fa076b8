"""Which Kafka the tests run on, and what is therefore not shown. `tests/README.md` tells how to use the fixtures.

kafka-python is imported where it is used: this module is loaded for every test, on machines without it too.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from streams.apache_cluster import ApacheKafkaCluster
    from streams.apache_kafka import ApacheKafka
    from streams.kafka_log import KafkaEventLog

NOT_SHOWN = pytest.StashKey[list[str]]()
_TANSU_CLUSTER = "tansu_cluster"
TopicMaker = Callable[..., str]


def required() -> bool:
    """Whether the run must fail without Apache Kafka."""
    return os.environ.get("SLIPSTREAM_REQUIRE_KAFKA", "") not in ("", "0")


def _note(config: pytest.Config, text: str) -> None:
    notes = config.stash.setdefault(NOT_SHOWN, [])
    if text not in notes:
        notes.append(text)


def _apache_kafka(directory: Path) -> ApacheKafka:
    """An Apache Kafka of $KAFKA_HOME, not yet started. Raises BrokerFailed."""
    from streams.apache_kafka import ApacheKafka
    from streams.broker import BrokerFailed

    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise BrokerFailed("KAFKA_HOME is not set: deploy/kafka/README.md makes it in one command")
    return ApacheKafka(Path(home), directory)


def is_apache(bootstrap: str) -> bool:
    """Whether the broker there is Apache Kafka, not Tansu."""
    from kafka import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        return bool(admin.describe_cluster()["cluster_id"] != _TANSU_CLUSTER)
    finally:
        admin.close()


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker for the whole run: $SLIPSTREAM_TEST_KAFKA, else Apache Kafka of $KAFKA_HOME, else Tansu.

    With SLIPSTREAM_KAFKA_NODES=3 a cluster of three.
    """
    if kafka_nodes() > 1:
        cluster: ApacheKafkaCluster = request.getfixturevalue("kafka_cluster")
        yield cluster.bootstrap
        return
    given = os.environ.get("SLIPSTREAM_TEST_KAFKA")
    if given:
        if not is_apache(given):
            if required():
                pytest.fail(f"SLIPSTREAM_REQUIRE_KAFKA is set, and {given} is Tansu", pytrace=False)
            _note(request.config, f"the Kafka tests ran on Tansu at {given}, which keeps nothing on disk")
        yield given
        return
    from streams.broker import BrokerFailed, TansuBroker

    directory = tmp_path_factory.mktemp("kafka")
    broker: ApacheKafka | TansuBroker
    try:
        broker = _apache_kafka(directory)
    except BrokerFailed as error:
        if required():
            pytest.fail(f"SLIPSTREAM_REQUIRE_KAFKA is set, and there is no Apache Kafka: {error}", pytrace=False)
        _note(request.config, f"the Kafka tests ran on Tansu, which keeps nothing on disk ({error})")
        broker = TansuBroker(directory / "tansu.log")
    broker.start()
    yield broker.bootstrap
    broker.stop()


def kafka_nodes() -> int:
    """How many nodes the run's Kafka is to have."""
    return int(os.environ.get("SLIPSTREAM_KAFKA_NODES", "") or 1)


@pytest.fixture(scope="session")
def kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafkaCluster]:
    """$SLIPSTREAM_KAFKA_NODES nodes of Apache Kafka, of $KAFKA_HOME, for the whole run; each may be killed."""
    from streams.apache_cluster import ApacheKafkaCluster

    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.fail("SLIPSTREAM_KAFKA_NODES needs KAFKA_HOME: deploy/kafka/README.md makes it", pytrace=False)
    with ApacheKafkaCluster(Path(home), tmp_path_factory.mktemp("kafka-cluster"), kafka_nodes()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _private_kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    from streams.broker import BrokerFailed

    try:
        broker = _apache_kafka(tmp_path_factory.mktemp("private-kafka"))
    except BrokerFailed as error:
        if required():
            pytest.fail(f"SLIPSTREAM_REQUIRE_KAFKA is set, and there is no Apache Kafka: {error}", pytrace=False)
        _note(request.config, f"what happens when a broker dies ({error})")
        pytest.skip(f"needs an Apache Kafka of its own: {error}")
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def tansu_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Tansu for the whole run, whatever `kafka_bootstrap` is: what the demo runs on."""
    from streams.broker import TansuBroker

    with TansuBroker(tmp_path_factory.mktemp("tansu") / "tansu.log") as broker:
        yield broker.bootstrap


@pytest.fixture
def apache_kafka(_private_kafka: ApacheKafka) -> ApacheKafka:
    """An Apache Kafka that the test may `kill()`, `stop()` and `start()`; running when the test begins."""
    _private_kafka.start()
    return _private_kafka


@pytest.fixture
def fresh_topics(kafka_bootstrap: str) -> TopicMaker:
    """`make(name="events", partitions=4, cleanup="delete") -> str`: a topic of the test's own, its `.dlt` beside it."""
    return topic_maker(kafka_bootstrap)


def topic_maker(bootstrap: str) -> TopicMaker:
    """`fresh_topics` for any broker, such as `apache_kafka.bootstrap`."""

    from contracts.topics import Topic
    from streams.topics import apply_topics

    def make(name: str = "events", partitions: int = 4, cleanup: str = "delete") -> str:
        topic = f"test.{name}.{uuid.uuid4().hex[:12]}"
        wanted = [
            Topic(topic, partitions, cleanup, -1, "any"),  # type: ignore[arg-type]
            Topic(topic + ".dlt", 1, "delete", -1, "any"),
        ]
        apply_topics(bootstrap, wanted, replication_factor=1)
        return topic

    return make


@pytest.fixture
def event_log(kafka_bootstrap: str) -> Iterator[KafkaEventLog]:
    """A connection to `kafka_bootstrap`, closed after the test."""
    from streams.kafka_log import KafkaEventLog

    log = KafkaEventLog(kafka_bootstrap, client_id="tests")
    yield log
    log.close()


@pytest.fixture(scope="session")
def _declared_topics_are_ours(kafka_bootstrap: str) -> None:
    """Guard somebody's data: on a broker that was given, the declared topics must be missing or empty at first."""
    from kafka import KafkaAdminClient

    from contracts.topics import TOPICS
    from streams.kafka_log import KafkaEventLog

    log = KafkaEventLog(kafka_bootstrap)
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    try:
        there = set(admin.list_topics())
        for topic in TOPICS:
            if topic.name in there and any(log.end_offsets(log.partitions(topic.name)).values()):
                pytest.fail(f"{kafka_bootstrap} holds records in {topic.name}: give the tests an empty broker")
    finally:
        admin.close()
        log.close()


@pytest.fixture
def clean_kafka(kafka_bootstrap: str, _declared_topics_are_ours: None) -> str:
    """`kafka_bootstrap` with the declared topics (`contracts.topics.TOPICS`) there and empty."""
    from kafka import KafkaAdminClient

    from contracts.topics import TOPICS
    from streams.topics import apply_topics

    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    try:
        there = set(admin.list_topics())
        old = [topic.name for topic in TOPICS if topic.name in there]
        if old:
            admin.delete_topics(old)
    finally:
        admin.close()
    apply_topics(kafka_bootstrap)
    return kafka_bootstrap


def pytest_unconfigure(config: pytest.Config) -> None:
    """The run's last lines: what it did not show."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    notes = config.stash.get(NOT_SHOWN, [])
    if reporter is not None and notes:
        reporter.write_line("")
        reporter.write_line("NOT SHOWN by this run, for want of Apache Kafka (deploy/kafka/README.md):", yellow=True)
        for note in notes:
            reporter.write_line(f"  - {note}", yellow=True)
