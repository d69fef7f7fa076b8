"""The items topic, followed: what the catalogue says of each item now."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import chain

import structlog

from contracts import topics
from contracts.item import Item
from contracts.wire import UnreadableMessage, decode
from streams.catch_up import read_until
from streams.event_log import EventLog, LogReader, Record

_LOOK_SECONDS = 0.2
_POLL_SECONDS = 0.005
_POLL_RECORDS = 5000
_log = structlog.get_logger(__name__)


class ItemFeed:
    """For one thread, but for `items`. The first `look` reads the whole topic, later ones what has come since."""

    def __init__(self, log: EventLog) -> None:
        self.items: Mapping[str, Item] = {}
        """By id, in order of first appearance; a removed item is not in it. Replaced, not changed, by what is new."""
        self._log = log
        self._reader: LogReader | None = None
        self._looked_at = 0.0

    def look(self) -> bool:
        """Read what is new, a few times a second; whether anything was. Raises LogUnavailable: call again."""
        if self._reader is None:
            self._read_all()
            return True
        if time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return False
        self._looked_at = time.monotonic()
        records = self._reader.poll(_POLL_RECORDS, _POLL_SECONDS)
        if records:
            self.items = _after(self.items, records)
        return bool(records)

    def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.close()

    def _read_all(self) -> None:
        partitions = self._log.partitions(topics.ITEMS)
        ends = self._log.end_offsets(partitions)
        reader = self._log.open_reader(self._log.begin_offsets(partitions))
        try:
            self.items = _after({}, chain.from_iterable(read_until(reader, ends)))
        except BaseException:
            reader.close()
            raise
        self._reader = reader


def _after(items: Mapping[str, Item], records: Iterable[Record]) -> dict[str, Item]:
    """What `items` become by `records`."""
    after = dict(items)
    for record in records:
        try:
            if record.value is None:
                after.pop((record.key or b"").decode(), None)
            else:
                item = decode(record.value, Item)
                after[item.item_id] = item
        except (UnreadableMessage, UnicodeDecodeError) as error:
            # The gateway counts it, too; there is no event to lose.
            _log.warning("item_unreadable", partition=record.partition, offset=record.offset, error=str(error))
    return after
