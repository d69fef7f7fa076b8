"""What the log holds when the demo is over: where each event lies, and each user's items in the log's order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from contracts.event import Event
from contracts.topics import EVENTS
from contracts.wire import decode
from streams.event_log import EventLog, Position

_PATIENCE_SECONDS = 10.0


@dataclass
class LoggedEvents:
    """The events topic, read whole.

    Attributes:
        positions: event id → where it lies.
        items_of: user id → item ids in the log's order, which is the order their history grew in.
    """

    positions: dict[str, Position] = field(default_factory=dict)
    items_of: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def read_events(log: EventLog) -> LoggedEvents:
    """Read the events topic from its beginning to its present end. Raises LogUnavailable."""
    partitions = log.partitions(EVENTS)
    ends = log.end_offsets(partitions)
    begins = log.begin_offsets(partitions)
    left = sum(ends[p] - begins[p] for p in partitions)
    logged = LoggedEvents()
    reader = log.open_reader(begins)
    try:
        while left > 0:
            records = reader.poll(10_000, _PATIENCE_SECONDS)
            if not records:
                break
            left -= len(records)
            for record in records:
                event = decode(record.value or b"", Event)
                logged.positions[event.event_id] = Position(record.topic, record.partition, record.offset)
                logged.items_of[event.user_id].append(event.item_id)
    finally:
        reader.close()
    return logged
