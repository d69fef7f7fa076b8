"""Which records of the log are events to train on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from itertools import repeat
from typing import NamedTuple

import msgspec
import structlog

from contracts import wire
from contracts.event import Event
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.ledger import LedgerRow, Untrained
from online_trainer.metrics import TrainerMetrics
from online_trainer.users import DedupeWindow
from streams.dead_letters import send_to_dead_letters
from streams.event_log import EventLog, Position, Record, RecordRefused

_DEAD_LETTER_SECONDS = 90.0
_new = tuple.__new__
"""A named tuple's own constructor takes 0.2 µs more, each event."""
_log = structlog.get_logger(__name__)


class Arrival(NamedTuple):
    """A record, the event in it, and why it won't be trained (None: it will)."""

    record: Record
    event: Event | None
    reason: Untrained | None

    def row(self, batch: int, ndcg: float | None = None, reason: Untrained | None = None) -> LedgerRow:
        """The ledger row; `reason` stands in when the arrival itself has none."""
        event, why = self.event, self.reason or reason
        return LedgerRow(
            partition=self.record.partition,
            offset=self.record.offset,
            batch=batch,
            trained=why is None,
            reason=why,
            ndcg=ndcg,
            event_id=event.event_id if event else None,
            user_id=event.user_id if event else None,
            item_id=event.item_id if event else None,
            timestamp=event.timestamp if event else None,
        )


class Reading(NamedTuple):
    """The events in some records.

    Attributes:
        events: of each record, None where there is none.
        unreadable: why, by place.
    """

    events: list[Event | None]
    unreadable: dict[int, wire.UnreadableMessage]


class Admission:
    """Reads records, remembers their event ids and sends what can't be read to the dead letters.

    Dead letters are appended at least once: a crash between them and the checkpoint appends them again, with the same
    original partition and offset in their headers. `admit` returns only once the log has them.
    """

    def __init__(self, log: EventLog, known_items: Collection[str], metrics: TrainerMetrics) -> None:
        self._log = log
        self._known_items = known_items
        self._metrics = metrics
        self._reader = _EventReader()

    def know(self, items: Collection[str]) -> None:
        """Admit events of these items from now on, and of no others."""
        self._known_items = items

    def read(self, records: Sequence[Record]) -> Reading:
        """Decode; changes nothing and sends nothing."""
        return self._reader.read(records)

    def foresee(self, records: Sequence[Record], reading: Reading, seen: DedupeWindow) -> list[Arrival]:
        """What `admit` would return, but for an id that a full window forgets meanwhile; `seen` stays as it is."""
        fresh: set[str] = set()

        def add_new(_: int, event_id: str) -> bool:
            known = event_id in seen or event_id in fresh
            fresh.add(event_id)
            return not known

        return _arrivals(records, reading, self._reasons(records, reading, add_new))

    def admit(self, records: Iterable[Record], seen: DedupeWindow, reading: Reading | None = None) -> list[Arrival]:
        """An arrival for each record, in order; ids that are new are added to `seen`.

        Args:
            reading: of these very records, where they have been read already.

        Raises:
            LogUnavailable: a dead letter was not taken. Nothing has been added to `seen`; call again.
        """
        records = list(records)
        reading = self.read(records) if reading is None else reading
        if reading.unreadable:
            self._bury([(records[place], error) for place, error in reading.unreadable.items()])
        reasons = self._reasons(records, reading, seen.add_new)
        self._metrics.count_arrivals(filter(None, reasons))
        return _arrivals(records, reading, reasons)

    def _reasons(
        self, records: Sequence[Record], reading: Reading, add_new: Callable[[int, str], bool]
    ) -> list[Untrained | None]:
        known = self._known_items
        reasons: list[Untrained | None] = []
        for record, event in zip(records, reading.events, strict=True):
            if event is None:
                reasons.append(Untrained.UNREADABLE)
            elif not add_new(record[1], event.event_id):
                reasons.append(Untrained.DUPLICATE)
            else:
                reasons.append(None if event.item_id in known else Untrained.UNKNOWN_ITEM)
        return reasons

    def _bury(self, unreadable: list[tuple[Record, wire.UnreadableMessage]]) -> None:
        sent: list[Future[Position]] = [send_to_dead_letters(self._log, record, error) for record, error in unreadable]
        for (record, error), future in zip(unreadable, sent, strict=True):
            where = {"partition": record.partition, "offset": record.offset}
            try:
                future.result(_DEAD_LETTER_SECONDS)
            except RecordRefused as refusal:
                # It stays readable where it lies in the events topic; the ledger names the offset.
                _log.error("dead_letter_refused", **where, error=str(error), refusal=str(refusal))
            else:
                _log.warning("dead_letter", **where, error=str(error))
        if sent:
            reach(FaultPoint.BATCH_DEAD_LETTER_SENT)


def _arrivals(records: Sequence[Record], reading: Reading, reasons: Sequence[Untrained | None]) -> list[Arrival]:
    return list(map(_new, repeat(Arrival), zip(records, reading.events, reasons, strict=True)))


class _Unchecked(Event, frozen=True, kw_only=True, gc=False):
    """An event whose type nobody has looked at."""

    event_type: str


class _EventReader:
    """`wire.decode` of many events. Types that have passed their pattern are not held against it with every event,
    which takes half of the decoding."""

    _MOST_TYPES = 1000

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(_Unchecked).decode
        self._types: set[str] = set()

    def read(self, records: Sequence[Record]) -> Reading:
        """Each record's event, None where there is none; and why, by place."""
        try:
            whole: list[Event | None] = list(map(self._decode, [record[4] or b"" for record in records]))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._read_each(records)
        if self._types.issuperset([event.event_type for event in whole if event is not None]):
            return Reading(whole, {})
        return self._read_each(records)

    def _read_each(self, records: Sequence[Record]) -> Reading:
        events: list[Event | None] = []
        unreadable = {}
        for place, record in enumerate(records):
            try:
                event: Event | None = wire.decode(record.value or b"", Event)
                if event is not None and len(self._types) < self._MOST_TYPES:
                    self._types.add(event.event_type)
            except wire.UnreadableMessage as error:
                event, unreadable[place] = None, error
            events.append(event)
        return Reading(events, unreadable)
