"""What a log holds: partitions, first and end offsets, exact on every broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import stamina
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, RetriableError

from streams.event_log import LogUnavailable, Partition
from streams.kafka_connection import connect, translate
from streams.kafka_settings import KafkaSettings

Answer = TypeVar("Answer")


class TopicProbe:
    """Asks for a topic's partitions: always the broker, never a cache, so that growth and an outage are seen."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin: KafkaAdminClient | None = None
        self._lock = threading.Lock()
        self._closed = False

    def partitions(self, topic: str) -> list[Partition]:
        """See `EventLog.partitions`."""
        try:
            with self._lock:
                found = self._describe(topic)["partitions"]
        except KafkaError as error:
            raise translate(error, f"partitions of {topic}: {self._settings.bootstrap} does not answer") from error
        if not found:
            raise LogUnavailable(
                f"topic {topic} is missing at {self._settings.bootstrap}: create it with `slipstream topics apply`"
            )
        return sorted(Partition(topic, partition["partition_index"]) for partition in found)

    def _describe(self, topic: str) -> dict[str, Any]:
        """Ask until an answer comes: right after an outage kafka-python says for a moment that it has no node."""
        if self._closed:
            raise LogUnavailable("the log is closed")
        if self._admin is None:
            patience = {"request_timeout_ms": round(self._settings.connect_timeout_seconds * 1000)}
            self._admin = connect(KafkaAdminClient, self._settings.common() | patience)
        for attempt in stamina.retry_context(
            on=RetriableError, timeout=self._settings.connect_timeout_seconds, attempts=None, wait_initial=0.05
        ):
            with attempt:
                return dict(self._admin.describe_topics([topic])[0])
        raise AssertionError("stamina either returns an attempt or raises")

    def close(self) -> None:
        """Disconnect. Idempotent."""
        with self._lock:
            self._closed = True
            if self._admin is not None:
                self._admin.close()
                self._admin = None


class OffsetProbe:
    """A consumer of its own that asks about offsets and never hands out a record. Thread-safe.

    The end of a partition is the high watermark of a fetch, not what ListOffsets says: Tansu 0.6 names the base of
    the last batch + 1 there, and at read_committed 0 while a transaction is open; its fetch answers are exact. On
    Apache Kafka the two agree, and a fetch at the end with no waiting costs one round trip.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._consumer: KafkaConsumer | None = None
        self._lock = threading.Lock()
        self._closed = False

    def begin_offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """See `EventLog.begin_offsets`."""
        asked = [TopicPartition(*partition) for partition in partitions]
        answer = self._ask("first offsets", lambda consumer: consumer.beginning_offsets(asked, self._timeout_ms))
        return {Partition(*partition): offset for partition, offset in answer.items()}

    def end_offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """See `EventLog.end_offsets`."""
        if not partitions:
            return {}
        return self._ask("end offsets", lambda consumer: self._high_watermarks(consumer, partitions))

    def _high_watermarks(self, consumer: KafkaConsumer, partitions: Sequence[Partition]) -> dict[Partition, int]:
        asked = [TopicPartition(*partition) for partition in partitions]
        reported = consumer.end_offsets(asked, self._timeout_ms)
        consumer.unsubscribe()
        consumer.assign(asked)  # a new assignment forgets the watermarks of the last one
        for partition in asked:
            consumer.seek(partition, reported[partition])
        deadline = time.monotonic() + self._settings.connect_timeout_seconds
        unknown = set(asked)
        while unknown:
            if time.monotonic() > deadline:
                raise LogUnavailable(f"no answer about the end of {sorted(unknown)[:3]}")
            consumer.poll(timeout_ms=50, max_records=100_000)
            unknown = {partition for partition in unknown if consumer.highwater(partition) is None}
        return {Partition(*p): max(reported[p], int(consumer.highwater(p) or 0)) for p in asked}

    def _ask(self, what: str, question: Callable[[KafkaConsumer], Answer]) -> Answer:
        with self._lock:
            if self._closed:
                raise LogUnavailable("the log is closed")
            if self._consumer is None:
                self._consumer = connect(KafkaConsumer, self._config())
            try:
                return question(self._consumer)
            except KafkaError as error:
                raise translate(error, f"{what}: {self._settings.bootstrap} does not answer") from error

    def _config(self) -> dict[str, object]:
        return self._settings.consumer() | {
            "isolation_level": "read_uncommitted",
            "fetch_max_wait_ms": 1,
            # Incremental sessions leave out partitions without news, and with them their watermarks.
            "enable_incremental_fetch_sessions": False,
        }

    @property
    def _timeout_ms(self) -> int:
        return round(self._settings.connect_timeout_seconds * 1000)

    def close(self) -> None:
        """Disconnect. Idempotent."""
        with self._lock:
            self._closed = True
            if self._consumer is not None:
                self._consumer.close(autocommit=False, timeout_ms=1000)
                self._consumer = None
