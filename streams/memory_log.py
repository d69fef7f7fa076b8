"""`MemoryEventLog`: the `EventLog` in this process, for unit tests only. What it holds dies with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from kafka.partitioner.default import murmur2

from streams.event_log import (
    EventLog,
    Headers,
    LogReader,
    LogUnavailable,
    Partition,
    Position,
    Record,
    WriterFenced,
)


@dataclass
class MemoryStore:
    """What several connections share: the records of each partition and who holds each transactional id."""

    topics: dict[str, int] = field(default_factory=dict)
    records: dict[Partition, list[Record]] = field(default_factory=dict)
    holders: dict[str, object] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        for topic, count in self.topics.items():
            self.add_topic(topic, count)

    def add_topic(self, topic: str, partitions: int) -> None:
        """Make an empty topic."""
        self.topics[topic] = partitions
        for number in range(partitions):
            self.records[Partition(topic, number)] = []


class MemoryEventLog(EventLog):
    """A connection to a `MemoryStore`. Records are acknowledged at once, so it is never saturated."""

    def __init__(self, store: MemoryStore) -> None:
        """Args: store: shared by every connection that should see the same records."""
        self._store = store
        self._claimed: set[str] = set()

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
        future: Future[Position] = Future()
        with self._store.changed:
            try:
                future.set_result(self._append(topic, key, value, headers, partition))
            except LogUnavailable as error:
                future.set_exception(error)
        return future

    def _append(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None
    ) -> Position:
        count = len(self.partitions(topic))
        number = partition if partition is not None else (murmur2(key or b"") & 0x7FFFFFFF) % count
        records = self._store.records[Partition(topic, number)]
        records.append(Record(topic, number, len(records), key, value, time.time(), headers))
        self._store.changed.notify_all()
        return Position(topic, number, len(records) - 1)

    def produce_transaction(
        self, transactional_id: str, records: Sequence[tuple[str, bytes | None, bytes | None]]
    ) -> None:
        """See `EventLog.produce_transaction`."""
        with self._store.changed:
            if transactional_id not in self._claimed:
                self._claimed.add(transactional_id)
                self._store.holders[transactional_id] = self
            if self._store.holders[transactional_id] is not self:
                raise WriterFenced(f"transactional id {transactional_id}: a later writer has taken it over")
            for topic, _, _ in records:
                self.partitions(topic)
            for topic, key, value in records:
                self._append(topic, key, value, (), None)

    def open_reader(self, start: Mapping[Partition, int]) -> LogReader:
        """See `EventLog.open_reader`."""
        return MemoryLogReader(self._store, start)

    def partitions(self, topic: str) -> list[Partition]:
        """See `EventLog.partitions`."""
        if topic not in self._store.topics:
            raise LogUnavailable(f"topic {topic} is missing: name it in the MemoryStore")
        return [Partition(topic, number) for number in range(self._store.topics[topic])]

    def begin_offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """See `EventLog.begin_offsets`."""
        return dict.fromkeys(partitions, 0)

    def end_offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """See `EventLog.end_offsets`."""
        return {partition: len(self._store.records[partition]) for partition in partitions}

    def flush(self, timeout_seconds: float) -> None:
        """See `EventLog.flush`."""

    def close(self) -> None:
        """See `EventLog.close`."""


class MemoryLogReader(LogReader):
    """Reads a `MemoryStore`."""

    def __init__(self, store: MemoryStore, start: Mapping[Partition, int]) -> None:
        self._store = store
        self._next = dict(start)

    def poll(self, max_records: int, timeout_seconds: float) -> list[Record]:
        """See `LogReader.poll`."""
        with self._store.changed:
            self._store.changed.wait_for(self._has_records, timeout_seconds)
            found: list[Record] = []
            for partition, offset in self._next.items():
                taken = self._store.records[partition][offset : offset + max_records - len(found)]
                self._next[partition] = offset + len(taken)
                found.extend(taken)
            return found

    def _has_records(self) -> bool:
        ready = False
        for partition, offset in self._next.items():
            end = len(self._store.records[partition])
            if offset > end:
                raise LogUnavailable(
                    f"{partition.topic}[{partition.partition}] has no offset {offset}: it holds 0 to {end}"
                )
            ready = ready or offset < end
        return ready

    def position(self, partition: Partition) -> int:
        """See `LogReader.position`."""
        return self._next[partition]

    def seek(self, partition: Partition, offset: int) -> None:
        """See `LogReader.seek`."""
        self._next[partition] = offset

    def close(self) -> None:
        """See `LogReader.close`."""
