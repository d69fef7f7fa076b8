"""Reading a log up to its present end: how a history is rebuilt, or what a compacted topic says now."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from streams.event_log import EventLog, LogReader, LogUnavailable, Partition, Record

_POLL_SECONDS = 0.5


def read_until(
    reader: LogReader, ends: Mapping[Partition, int], stall_seconds: float = 30.0, max_records: int = 5000
) -> Iterator[list[Record]]:
    """Batches of records until the reader stands at `ends` (`EventLog.end_offsets`) in every partition.

    A batch may hold records behind an end, if they were there by then. The reader is left open, to read on.

    Raises:
        LogUnavailable: no progress for `stall_seconds`; for instance, an open transaction holds readers back.
    """
    moved_at = time.monotonic()
    while behind := [partition for partition, end in ends.items() if reader.position(partition) < end]:
        before = [reader.position(partition) for partition in behind]
        records = reader.poll(max_records, _POLL_SECONDS)
        if records:
            yield records
        if records or before != [reader.position(partition) for partition in behind]:
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at > stall_seconds:
            at = {f"{p.topic}[{p.partition}]": f"{reader.position(p)} of {ends[p]}" for p in behind}
            raise LogUnavailable(f"reading stands still for {stall_seconds} s at {at}")


def newest_by_key(log: EventLog, topic: str, stall_seconds: float = 30.0) -> dict[bytes, Record]:
    """The last record of each key in `topic` (a compacted one) as of now; a deleted key (no value) is left out.

    Raises:
        LogUnavailable: see `read_until` and `EventLog.partitions`.
    """
    partitions = log.partitions(topic)
    ends = log.end_offsets(partitions)
    reader = log.open_reader(log.begin_offsets(partitions))
    newest: dict[bytes, Record] = {}
    try:
        for records in read_until(reader, ends, stall_seconds):
            newest.update((record.key, record) for record in records if record.key is not None)
    finally:
        reader.close()
    return {key: record for key, record in newest.items() if record.value is not None}
