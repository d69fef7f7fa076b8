"""The ingest bench reads what it says it reads, by both loops."""

from __future__ import annotations

import pytest

from contracts import topics
from contracts.item import Item
from online_trainer.bench_ingest import fill, measure
from recommender.initialise import preset_recommender
from streams.apache_kafka import ApacheKafka
from streams.kafka_log import KafkaEventLog
from streams.topics import apply_topics

pytestmark = pytest.mark.kafka


def test_both_loops_read_the_topic(apache_kafka: ApacheKafka) -> None:
    bootstrap = apache_kafka.bootstrap
    apply_topics(bootstrap)
    log = KafkaEventLog(bootstrap)
    before = sum(log.end_offsets(log.partitions(topics.EVENTS)).values())
    fill(log, 3000, users=50, items=40)
    assert sum(log.end_offsets(log.partitions(topics.EVENTS)).values()) - before == 3000
    log.close()
    recommender = preset_recommender("tiny", [Item(item_id=f"item-{number}") for number in range(40)])
    found = measure(lambda: KafkaEventLog(bootstrap), bootstrap, recommender, 2000, 1)
    assert len(found.bare) == len(found.bare_alike) == len(found.trainer) == 1
    assert 0 < found.ratio == found.trainer[0] / max(found.bare[0], found.bare_alike[0])
