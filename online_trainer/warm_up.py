"""Before training: the log's beginning fills the histories."""

from __future__ import annotations

from contracts import topics
from online_trainer.admission import Admission
from online_trainer.journal import Beginning
from online_trainer.ledger import Ledger, Untrained
from online_trainer.users import Users
from streams.catch_up import read_until
from streams.event_log import EventLog, Partition


def warm_up(log: EventLog, beginning: Beginning, admission: Admission, users: Users, history: Ledger) -> None:
    """Read everything before `beginning.train_from` into `users` and, durably, into `history`.

    Partition by partition, so that the result depends on the log alone. A crash in between starts it over.

    Raises:
        LogUnavailable: call again with empty `users` and `history`.
    """
    for number, end in sorted(beginning.train_from.items()):
        partition = Partition(topics.EVENTS, number)
        reader = log.open_reader({partition: beginning.history_from[number]})
        try:
            for records in read_until(reader, {partition: end}):
                for arrival in admission.admit((r for r in records if r.offset < end), users.seen):
                    row = arrival.row(batch=0, reason=Untrained.HISTORY)
                    users.take(row)
                    history.append(row)
        finally:
            reader.close()
    history.sync()
