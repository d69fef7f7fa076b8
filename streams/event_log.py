"""The `EventLog` seam: an ordered, partitioned, durable log, read by partition and offset.

Implementations: `streams.kafka_log.KafkaEventLog` (any Kafka-compatible broker) and, for unit tests only,
`streams.memory_log.MemoryEventLog`. One contract test runs over both (`tests/contract/test_event_log.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

Headers = tuple[tuple[str, bytes], ...]


class LogUnavailable(Exception):
    """The log can't be reached; try again later. Nothing was acknowledged."""


class LogSaturated(LogUnavailable):
    """More bytes wait for an acknowledgement than the log's bound allows: shed load, or wait."""


class RecordRefused(ValueError):
    """The log will never take this record (too large, no key on a compacted topic, …): don't send it again."""


class WriterFenced(Exception):
    """Another writer has taken over this transactional id; this one must stop and never write again."""


class Partition(NamedTuple):
    """A topic's partition."""

    topic: str
    partition: int


class Position(NamedTuple):
    """Where a record lies: topic, partition, offset."""

    topic: str
    partition: int
    offset: int


class Record(NamedTuple):
    """One record as it was read. `timestamp` is the log's, unix seconds."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: float
    headers: Headers = ()


class LogReader(ABC):
    """Reads named partitions from named offsets; never a consumer group. For one thread."""

    @abstractmethod
    def poll(self, max_records: int, timeout_seconds: float) -> list[Record]:
        """The next records, in offset order within each partition; empty after `timeout_seconds` without any.

        Raises:
            LogUnavailable: an offset that the log no longer has (the text names both), or no broker for longer
                than the log's own patience. A passing outage is waited out.
        """

    @abstractmethod
    def position(self, partition: Partition) -> int:
        """The offset `poll` reads next. It also passes over what is no record (transaction markers, aborted records,
        compacted gaps), so `position >= end` is how to know that a reader has caught up; the last record's offset + 1
        may never get there."""

    @abstractmethod
    def seek(self, partition: Partition, offset: int) -> None:
        """Read on at `offset`; what was fetched and not yet polled of that partition is forgotten."""

    @abstractmethod
    def close(self) -> None:
        """Stop reading. Idempotent."""


class EventLog(ABC):
    """A connection to the log. Thread-safe but for the readers it opens."""

    @abstractmethod
    def produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        partition: int | None = None,
    ) -> Future[Position]:
        """Append a record; the future is done once every in-sync replica has it (`acks=all`, idempotent).

        Returns at once. The partition is chosen by key (Kafka's murmur2) unless named.

        Raises:
            LogSaturated: the bytes in flight would exceed the bound; the record was not taken.
            RecordRefused: the record is larger than the log takes.

        The future fails with RecordRefused, or with LogUnavailable when no acknowledgement came in time; then the
        record may still have been written (send the event again: its id tells the two apart).
        """

    @abstractmethod
    def produce_transaction(
        self, transactional_id: str, records: Sequence[tuple[str, bytes | None, bytes | None]]
    ) -> None:
        """Append (topic, key, value) records all or none; blocks until committed.

        The first call with a `transactional_id` on this connection fences off every earlier connection that used
        the same id.

        Raises:
            WriterFenced: a later connection has taken the id over, or this one can't prove that none has.
            LogUnavailable: it was not committed, or (the text says so) that is not known.
        """

    @abstractmethod
    def open_reader(self, start: Mapping[Partition, int]) -> LogReader:
        """A reader at the given next offsets. It sees committed records only. Raises LogUnavailable."""

    @abstractmethod
    def partitions(self, topic: str) -> list[Partition]:
        """The topic's partitions, in order. Raises LogUnavailable when the topic is missing or no broker answers."""

    @abstractmethod
    def begin_offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The first offset that can be read, for each. Raises LogUnavailable."""

    @abstractmethod
    def end_offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The offset the next record will get, for each; exact on every broker (the implementation corrects brokers
        that name the last batch's base instead). Uncommitted records and markers count. Raises LogUnavailable."""

    @abstractmethod
    def flush(self, timeout_seconds: float) -> None:
        """Wait until nothing is in flight. Raises LogUnavailable when that takes longer."""

    @abstractmethod
    def close(self) -> None:
        """Flush for a bounded time and disconnect. Idempotent."""
