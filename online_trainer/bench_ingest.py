"""How fast events become tensors: the trainer's path from the log to a batch, beside kafka-python's bare poll loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from contracts import topics, wire
from contracts.event import Event
from online_trainer.admission import Admission
from online_trainer.batch import group, remember
from online_trainer.intake import POLL_RECORDS, Intake
from online_trainer.metrics import TrainerMetrics
from online_trainer.users import Users
from recommender.examples import online_batch
from recommender.loading import Recommender
from streams.event_log import EventLog
from streams.kafka_settings import KafkaSettings


@dataclass(frozen=True)
class IngestRate:
    """Events a second, one number a turn.

    Attributes:
        bare: the poll loop with kafka-python's defaults.
        bare_alike: the same with our reader's settings, and as many records a poll.
    """

    bare: list[float]
    bare_alike: list[float]
    trainer: list[float]

    @property
    def ratio(self) -> float:
        """The trainer's median over the faster bare loop's."""
        return median(self.trainer) / max(median(self.bare), median(self.bare_alike))


def fill(log: EventLog, events: int, users: int, items: int) -> None:
    """Append events to the log: users in turn, items in turn, a second apart."""
    for number in range(events):
        event = Event(
            event_id=f"event-{number}",
            event_type="click",
            user_id=f"user-{number * 7 % users}",
            item_id=f"item-{number * 11 % items}",
            timestamp=float(1_700_000_000 + number),
        )
        log.produce(topics.EVENTS, event.user_id.encode(), wire.encode(event))
        if number % 10_000 == 0:
            log.flush(60)
    log.flush(60)


def measure(
    connect: Callable[[], EventLog],
    bootstrap: str,
    recommender: Recommender,
    events: int,
    turns: int,
    batch_events: int = 64,
) -> IngestRate:
    """Read the first `events` records of the topic, bare and by the trainer's path, in turn.

    Bare: `KafkaConsumer.poll`, nothing done with the records. The trainer's path ends where the model begins: plans,
    records, decoded and deduplicated events, grouped by user, as a batch's tensors.
    """
    found = IngestRate([], [], [])
    alike = KafkaSettings(bootstrap).consumer() | {"auto_offset_reset": "earliest", "max_poll_records": POLL_RECORDS}
    for _ in range(turns):
        found.bare.append(_bare(bootstrap, events, {"group_id": None, "auto_offset_reset": "earliest"}))
        found.trainer.append(_trainer(connect, recommender, events, batch_events))
        found.bare_alike.append(_bare(bootstrap, events, alike))
    return found


def _bare(bootstrap: str, events: int, settings: Mapping[str, Any]) -> float:
    consumer = KafkaConsumer(**{"bootstrap_servers": bootstrap, **settings})
    try:
        numbers = sorted(consumer.partitions_for_topic(topics.EVENTS) or ())
        consumer.assign([TopicPartition(topics.EVENTS, number) for number in numbers])
        count, started = 0, 0.0
        while count < events:
            fetched = consumer.poll(1000)
            if not started and fetched:
                started = time.perf_counter()
                continue
            count += sum(map(len, fetched.values()))
        return count / (time.perf_counter() - started)
    finally:
        consumer.close()


def _trainer(connect: Callable[[], EventLog], recommender: Recommender, events: int, batch_events: int) -> float:
    log = connect()
    users, metrics = Users(1000, 50_000), TrainerMetrics()
    admission = Admission(log, recommender.vocabulary.index, metrics)
    start = {partition.partition: 0 for partition in log.partitions(topics.EVENTS)}
    intake = Intake(log, start, batch_events, 0.0, stop_at_end=False)
    try:
        count, started, number = 0, 0.0, 0
        while count < events and (plan := intake.plan(number, 5.0)) is not None:
            number += 1
            arrivals = admission.admit(intake.collect(plan), users.seen)
            grouped = group(arrivals, users.histories)
            batch = online_batch(recommender, grouped.updates)
            remember(arrivals, grouped, users.histories)
            if not started:
                started = time.perf_counter()
            else:
                count += batch.num_events
        return count / (time.perf_counter() - started)
    finally:
        intake.close()
        log.close()
