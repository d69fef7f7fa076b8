"""Bringing a broker's topics in line with their declaration in `contracts.topics`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import stamina
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, RetriableError, TopicAlreadyExistsError

from contracts.topics import TOPICS, Topic
from streams.event_log import LogUnavailable
from streams.kafka_connection import connect, translate
from streams.kafka_settings import KafkaSettings

MAX_REPLICAS = 3
"""Copies of each partition where the cluster has as many brokers."""

_READY_MS = 15_000


class TopicAction(StrEnum):
    """What `apply_topics` did to one topic."""

    CREATED = "created"
    GROWN = "grown"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True)
class TopicReport:
    """One topic after `apply_topics` or `compare_topics`.

    Attributes:
        partitions: how many the broker has.
        replicas: copies of the first partition.
        drift: settings that differ from the declaration, as `name=found, declared wanted`; left as they are.
        problem: why it was refused; empty otherwise.
    """

    name: str
    action: TopicAction
    partitions: int
    replicas: int
    drift: tuple[str, ...] = ()
    problem: str = ""


def apply_topics(
    bootstrap: str, topics: Sequence[Topic] = TOPICS, replication_factor: int | None = None
) -> list[TopicReport]:
    """Create what is missing, add partitions where more are declared, report the rest. Idempotent.

    Fewer declared partitions than there are is refused (a user's order hangs on their number), as is growth on a
    broker that can't (Tansu). A setting that differs is reported, not changed: somebody may have meant it.

    Args:
        replication_factor: copies of each partition; None for `MAX_REPLICAS`, or one a broker if there are fewer.

    Raises:
        LogUnavailable: no broker answers, or it refuses a creation.
    """
    settings = KafkaSettings(bootstrap, client_id="slipstream-topics")
    admin = connect(KafkaAdminClient, settings.common())
    try:
        replicas = replication_factor or min(MAX_REPLICAS, len(admin.describe_cluster()["brokers"]))
        found = _describe(admin, topics)
        created = {topic.name for topic in topics if topic.name not in found}
        _create(admin, [topic for topic in topics if topic.name in created], replicas)
        grown, refused = _grow(admin, topics, found)
        return list(_reports(admin, topics, created, grown, refused))
    except KafkaError as error:
        raise translate(error, f"applying topics at {bootstrap}") from error
    finally:
        admin.close()


def compare_topics(bootstrap: str, topics: Sequence[Topic] = TOPICS) -> list[TopicReport]:
    """What `apply_topics` would find, changing nothing. A missing topic has 0 partitions. Raises LogUnavailable."""
    settings = KafkaSettings(bootstrap, client_id="slipstream-topics")
    admin = connect(KafkaAdminClient, settings.common())
    try:
        return list(_reports(admin, topics, set(), set(), {}))
    except KafkaError as error:
        raise translate(error, f"listing topics at {bootstrap}") from error
    finally:
        admin.close()


def topic_settings(topic: Topic) -> dict[str, str]:
    """A declaration as Kafka's topic settings."""
    retention = topic.retention_seconds * 1000 if topic.retention_seconds >= 0 else -1
    return {"cleanup.policy": topic.cleanup, "retention.ms": str(retention)}


@stamina.retry(on=RetriableError, timeout=10.0, wait_initial=0.1)
def _describe(admin: KafkaAdminClient, topics: Sequence[Topic]) -> dict[str, list[dict[str, Any]]]:
    """Each existing topic's partitions, by topic name."""
    answer = admin.describe_topics([topic.name for topic in topics])
    return {topic["name"]: topic["partitions"] for topic in answer if topic["partitions"]}


def _create(admin: KafkaAdminClient, topics: Sequence[Topic], replicas: int) -> None:
    if not topics:
        return
    wanted = {
        topic.name: {
            "num_partitions": topic.partitions,
            "replication_factor": replicas,
            "configs": topic_settings(topic),
        }
        for topic in topics
    }
    answer = admin.create_topics(wanted, raise_errors=False)
    for topic in answer["topics"]:
        if topic["error_code"] not in (0, TopicAlreadyExistsError.errno):  # somebody else may be creating them too
            raise LogUnavailable(f"topic {topic['name']} was not created: {topic['error_message'] or topic}")
    admin.wait_for_topics(list(wanted), timeout_ms=_READY_MS)


def _grow(
    admin: KafkaAdminClient, topics: Sequence[Topic], found: dict[str, list[dict[str, Any]]]
) -> tuple[set[str], dict[str, str]]:
    """Names that got more partitions, and names that did not get what is declared with the reason."""
    grown: set[str] = set()
    refused: dict[str, str] = {}
    for topic in topics:
        has = len(found.get(topic.name, ())) or topic.partitions
        if topic.partitions < has:
            refused[topic.name] = (
                f"has {has} partitions, {topic.partitions} are declared: Kafka can't remove any; declare {has}, or "
                "start a new topic version"
            )
        elif topic.partitions > has:
            try:
                admin.create_partitions({topic.name: topic.partitions})
                grown.add(topic.name)
            except KafkaError as error:
                refused[topic.name] = f"has {has} partitions, {topic.partitions} are declared: {error}"
    return grown, refused


def _reports(
    admin: KafkaAdminClient, topics: Sequence[Topic], created: set[str], grown: set[str], refused: dict[str, str]
) -> Iterator[TopicReport]:
    found = _describe(admin, topics)
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics if topic.name in found]
    described = admin.describe_configs(resources, config_filter="all")["topic"] if resources else {}
    for topic in topics:
        partitions = found.get(topic.name, [])
        action = TopicAction.UNCHANGED
        if topic.name in refused:
            action = TopicAction.REFUSED
        elif topic.name in created or topic.name in grown:
            action = TopicAction.CREATED if topic.name in created else TopicAction.GROWN
        yield TopicReport(
            name=topic.name,
            action=action,
            partitions=len(partitions),
            replicas=len(partitions[0]["replica_nodes"]) if partitions else 0,
            drift=_drift(topic, described.get(topic.name, {})),
            problem=refused.get(topic.name, ""),
        )


def _drift(topic: Topic, described: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    return tuple(
        f"{name}={described[name]['value']}, declared {wanted}"
        for name, wanted in topic_settings(topic).items()
        if name in described and described[name]["value"] != wanted
    )
