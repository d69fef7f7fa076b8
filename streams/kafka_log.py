"""`KafkaEventLog`: the `EventLog` on any Kafka-compatible broker, by kafka-python 3."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from streams.event_log import EventLog, Headers, LogReader, Partition, Position
from streams.kafka_offsets import OffsetProbe, TopicProbe
from streams.kafka_producer import BoundedProducer
from streams.kafka_reader import KafkaLogReader
from streams.kafka_settings import Compression, KafkaSettings
from streams.kafka_transactions import KeyedRecord, TransactionalWriter

_CLOSE_SECONDS = 5.0


class KafkaEventLog(EventLog):
    """A log on Kafka. Nothing connects before it is used, so it may be made while no broker is up.

    `produce` needs no broker either: records wait within `max_in_flight_bytes` for one to come and fail after
    `delivery_timeout_seconds`. Every other call raises LogUnavailable within about `connect_timeout_seconds`.
    """

    def __init__(
        self,
        bootstrap: str,
        client_id: str = "slipstream",
        *,
        max_in_flight_bytes: int = 64 * 2**20,
        delivery_timeout_seconds: float = 60.0,
        connect_timeout_seconds: float = 3.0,
        request_timeout_seconds: float = 10.0,
        patience_seconds: float = 30.0,
        compression: Compression = "lz4",
    ) -> None:
        self.settings = KafkaSettings(
            bootstrap=bootstrap,
            client_id=client_id,
            max_in_flight_bytes=max_in_flight_bytes,
            delivery_timeout_seconds=delivery_timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            request_timeout_seconds=request_timeout_seconds,
            patience_seconds=patience_seconds,
            compression=compression,
        )
        self._producer = BoundedProducer(self.settings)
        self._topics = TopicProbe(self.settings)
        self._offsets = OffsetProbe(self.settings)
        self._writers: dict[str, TransactionalWriter] = {}
        self._writers_lock = threading.Lock()

    @property
    def in_flight_bytes(self) -> int:
        """Bytes that wait for an acknowledgement, overhead included; at most `max_in_flight_bytes`."""
        return self._producer.budget.used

    def produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        partition: int | None = None,
    ) -> Future[Position]:
        """See `EventLog.produce`."""
        return self._producer.produce(topic, key, value, headers, partition)

    def produce_transaction(self, transactional_id: str, records: Sequence[KeyedRecord]) -> None:
        """See `EventLog.produce_transaction`."""
        with self._writers_lock:
            writer = self._writers.get(transactional_id)
            if writer is None:
                writer = self._writers[transactional_id] = TransactionalWriter(self.settings, transactional_id)
        writer.write(records)

    def open_reader(self, start: Mapping[Partition, int]) -> LogReader:
        """See `EventLog.open_reader`."""
        return KafkaLogReader(self.settings, start)

    def partitions(self, topic: str) -> list[Partition]:
        """See `EventLog.partitions`."""
        return self._topics.partitions(topic)

    def begin_offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """See `EventLog.begin_offsets`."""
        return self._offsets.begin_offsets(partitions)

    def end_offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """See `EventLog.end_offsets`."""
        return self._offsets.end_offsets(partitions)

    def flush(self, timeout_seconds: float) -> None:
        """See `EventLog.flush`."""
        self._producer.flush(timeout_seconds)

    def close(self) -> None:
        """See `EventLog.close`."""
        self._producer.close(_CLOSE_SECONDS)
        for writer in self._writers.values():
            writer.close(_CLOSE_SECONDS)
        self._topics.close()
        self._offsets.close()
