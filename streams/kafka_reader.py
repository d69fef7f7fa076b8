"""Reading Kafka by partition and offset."""

from __future__ import annotations

import time
from collections.abc import Mapping

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from streams.event_log import LogReader, LogUnavailable, Partition, Record
from streams.kafka_batches import BatchRecords
from streams.kafka_connection import connect, translate
from streams.kafka_settings import KafkaSettings

_PROBE_MS = 1000


class KafkaLogReader(LogReader):
    """One consumer with an assignment, at read_committed."""

    def __init__(self, settings: KafkaSettings, start: Mapping[Partition, int]) -> None:
        self._settings = settings
        self._consumer = connect(KafkaConsumer, settings.consumer())
        self._consumer._fetcher.PartitionRecords = BatchRecords
        self._partitions = [TopicPartition(*partition) for partition in start]
        self._consumer.assign(self._partitions)
        self._positions: dict[Partition, int] = {}
        """As far as asked for since the last poll: kafka-python takes 15 µs to tell one."""
        for partition, offset in start.items():
            self.seek(partition, offset)
        self._heard_at = time.monotonic()
        self._closed = False

    def poll(self, max_records: int, timeout_seconds: float) -> list[Record]:
        """See `LogReader.poll`."""
        self._positions.clear()
        try:
            fetched = self._consumer.poll(int(timeout_seconds * 1000), max_records)
        except OffsetOutOfRangeError as error:
            raise self._out_of_range(error) from error
        except KafkaError as error:
            raise translate(error, f"reading from {self._settings.bootstrap}") from error
        if fetched:
            self._heard_at = time.monotonic()
        elif time.monotonic() - self._heard_at > self._settings.patience_seconds:
            self._look_for_broker()
        return [record for records in fetched.values() for record in records]

    def position(self, partition: Partition) -> int:
        """See `LogReader.position`."""
        found = self._positions.get(partition)
        if found is None:
            found = self._positions[partition] = int(self._consumer.position(TopicPartition(*partition)))
        return found

    def seek(self, partition: Partition, offset: int) -> None:
        """See `LogReader.seek`."""
        self._positions.pop(partition, None)
        self._consumer.seek(TopicPartition(*partition), offset)

    def close(self) -> None:
        """See `LogReader.close`."""
        if not self._closed:
            self._closed = True
            self._consumer.close(autocommit=False, timeout_ms=_PROBE_MS)

    def _look_for_broker(self) -> None:
        """An empty poll may mean a quiet topic or no broker; ask, once the quiet has lasted."""
        try:
            self._consumer.beginning_offsets(self._partitions, timeout_ms=_PROBE_MS)
        except KafkaError as error:
            quiet = time.monotonic() - self._heard_at
            raise translate(error, f"nothing heard from {self._settings.bootstrap} for {quiet:.0f} s") from error
        self._heard_at = time.monotonic()

    def _out_of_range(self, error: OffsetOutOfRangeError) -> LogUnavailable:
        asked: dict[TopicPartition, int] = error.args[0]
        has = []
        for partition, offset in asked.items():
            name = f"{partition.topic}[{partition.partition}]"
            try:
                first = self._consumer.beginning_offsets([partition], timeout_ms=_PROBE_MS)[partition]
                end = self._consumer.end_offsets([partition], timeout_ms=_PROBE_MS)[partition]
            except KafkaError:
                has.append(f"{name} has no offset {offset} (its range could not be asked)")
            else:
                has.append(f"{name} has no offset {offset}: it holds {first} to {end}; seek to one of these")
        return LogUnavailable("; ".join(has))
