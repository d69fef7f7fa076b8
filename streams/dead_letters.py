"""What can't be read goes to the topic's `.dlt`, with where it came from and why."""

from __future__ import annotations

from concurrent.futures import Future

from contracts.topics import dead_letter
from streams.event_log import EventLog, Headers, Position, Record

TOPIC = "dlt-original-topic"
PARTITION = "dlt-original-partition"
OFFSET = "dlt-original-offset"
TIMESTAMP = "dlt-original-timestamp"
EXCEPTION = "dlt-exception-class"
REASON = "dlt-reason"

_MAX_REASON_CHARACTERS = 1000


def send_to_dead_letters(log: EventLog, record: Record, error: BaseException) -> Future[Position]:
    """Append `record` unchanged (key, value, headers) to `<topic>.dlt`, with `DLT` headers behind its own.

    A reader moves on past `record` only once the future is done: else a crash between the two would lose it.
    Reading it again after a crash appends it twice, with one original offset, which tells.

    Raises:
        LogSaturated: try again; the record was not taken.
    """
    return log.produce(
        dead_letter(record.topic), record.key, record.value, record.headers + _where_and_why(record, error)
    )


def _where_and_why(record: Record, error: BaseException) -> Headers:
    kind = type(error)
    return (
        (TOPIC, record.topic.encode()),
        (PARTITION, str(record.partition).encode()),
        (OFFSET, str(record.offset).encode()),
        (TIMESTAMP, repr(record.timestamp).encode()),
        (EXCEPTION, f"{kind.__module__}.{kind.__qualname__}".encode()),
        (REASON, str(error)[:_MAX_REASON_CHARACTERS].encode()),
    )
