"""What the log holds before the demo's clock starts: the catalogue's items and the first 80 % of the timeline."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

from rich.progress import track

from contracts.event import Event
from contracts.item import Item
from contracts.topics import EVENTS, ITEMS
from contracts.wire import encode
from streams.event_log import EventLog, LogSaturated, Position

Row = tuple[str, str, bytes]


class LogNotEmpty(Exception):
    """The events topic already holds records; the demo would mix its users with them."""


def fill_log(log: EventLog, items: Iterable[Item], events: Iterable[Event], total: int) -> dict[int, int]:
    """Write items and events; returns the events topic's end offset for each partition.

    Args:
        total: how many records there are, for the progress bar.

    Raises:
        LogNotEmpty: somebody else's events are there. LogUnavailable: the broker went away.
    """
    partitions = log.partitions(EVENTS)
    held = sum(log.end_offsets(partitions).values()) - sum(log.begin_offsets(partitions).values())
    if held:
        raise LogNotEmpty(
            f"topic {EVENTS} already holds {held:,} records, and the demo needs an empty one: delete the topic, "
            "or leave --kafka out and the demo starts a broker of its own"
        )
    pending = [
        _produce(log, row) for row in track(_rows(items, events), "filling the log", total=total, transient=True)
    ]
    log.flush(60.0)
    for future in pending:
        future.result()
    return {partition.partition: end for partition, end in log.end_offsets(partitions).items()}


def _rows(items: Iterable[Item], events: Iterable[Event]) -> Iterator[Row]:
    yield from ((ITEMS, item.item_id, encode(item)) for item in items)
    yield from ((EVENTS, event.user_id, encode(event)) for event in events)


def _produce(log: EventLog, row: Row) -> Future[Position]:
    topic, key, value = row
    while True:
        try:
            return log.produce(topic, key.encode(), value)
        except LogSaturated:
            time.sleep(0.005)
