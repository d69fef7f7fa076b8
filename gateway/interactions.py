"""What events teach the gateway: histories and popularity, fed by requests and by the log alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from contracts.event import Event
from contracts.item import Item
from contracts.wire import UnreadableMessage, decode
from gateway.history import InProcessHistories
from gateway.items import Items
from gateway.metrics import GatewayMetrics
from gateway.shelf import Shelf
from streams.event_log import Record

_logger = structlog.get_logger("slipstream.gateway.interactions")


class Interactions:
    """Applies each event once to histories and shelf, whether a request or the log brings it first."""

    def __init__(self, histories: InProcessHistories, shelf: Shelf, items: Items, metrics: GatewayMetrics) -> None:
        self.histories = histories
        self.shelf = shelf
        self.items = items
        self._metrics = metrics

    def absorb(self, events: Iterable[tuple[Event, int]]) -> None:
        """Apply acknowledged (event, offset) pairs."""
        self.shelf.add(self.histories.apply(events))

    def read_events(self, records: Sequence[Record]) -> None:
        """The events topic's handler. What can't be read is the trainer's to put on the dead-letter topic."""
        events = []
        for record in records:
            try:
                events.append((decode(record.value or b"", Event), record.offset))
            except UnreadableMessage as error:
                self._pass_over(record, error)
        self.absorb(events)

    def read_items(self, records: Sequence[Record]) -> None:
        """The items topic's handler; a record without a value removes the item."""
        added = []
        for record in records:
            try:
                if record.value is None:
                    self.items.remove((record.key or b"").decode())
                else:
                    item = decode(record.value, Item)
                    self.items.put(item)
                    added.append(item.item_id)
            except (UnreadableMessage, UnicodeDecodeError) as error:
                self._pass_over(record, error)
        self.shelf.add_items(added)

    def _pass_over(self, record: Record, error: Exception) -> None:
        self._metrics.unreadable_records.labels(record.topic).inc()
        where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        _logger.warning("unreadable_record", problem=str(error), **where)
