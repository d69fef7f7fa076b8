"""Which records of the log are events to train on."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import Future
from typing import NamedTuple

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


class Admission:
    """Reads records, remembers their event ids and sends what can't be read to the dead letters.

    Dead letters are appended at least once: a crash between them and the checkpoint appends them again, with the same
    original partition and offset in their headers. `admit` returns only once the log has them.
    """

    def __init__(self, log: EventLog, known_items: Collection[str], metrics: TrainerMetrics) -> None:
        self._log = log
        self._known_items = known_items
        self._metrics = metrics

    def admit(self, records: Iterable[Record], seen: DedupeWindow) -> list[Arrival]:
        """An arrival for each record, in order; ids that are new are added to `seen`.

        Raises:
            LogUnavailable: a dead letter was not taken. Nothing has been added to `seen`; call again.
        """
        read = [_read(record) for record in records]
        self._bury([(record, found) for record, found in read if isinstance(found, wire.UnreadableMessage)])
        arrivals = [
            Arrival(record, None, Untrained.UNREADABLE)
            if isinstance(found, wire.UnreadableMessage)
            else self._judge(record, found, seen)
            for record, found in read
        ]
        self._metrics.count_arrivals(arrival.reason for arrival in arrivals)
        return arrivals

    def _judge(self, record: Record, event: Event, seen: DedupeWindow) -> Arrival:
        if event.event_id in seen:
            return Arrival(record, event, Untrained.DUPLICATE)
        seen.add(record.partition, event.event_id)
        known = event.item_id in self._known_items
        return Arrival(record, event, None if known else Untrained.UNKNOWN_ITEM)

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


def _read(record: Record) -> tuple[Record, Event | wire.UnreadableMessage]:
    try:
        return record, wire.decode(record.value or b"", Event)
    except wire.UnreadableMessage as error:
        return record, error
