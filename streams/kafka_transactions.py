"""All-or-nothing appends under a transactional id, and who may still make them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillRunning

from kafka import KafkaProducer
from kafka.errors import (
    InvalidProducerEpochError,
    KafkaError,
    KafkaTimeoutError,
    ProducerFencedError,
    TransactionCoordinatorFencedError,
)

from streams.event_log import LogUnavailable, WriterFenced
from streams.kafka_connection import connect, translate
from streams.kafka_producer import close_producer
from streams.kafka_settings import KafkaSettings

_FENCED = (ProducerFencedError, InvalidProducerEpochError, TransactionCoordinatorFencedError)
KeyedRecord = tuple[str, bytes | None, bytes | None]


class TransactionalWriter:
    """One transactional id on one connection. Thread-safe; writes one transaction at a time.

    The id is claimed once, at the first write. It is never claimed again after an error: a second claim would fence
    off whoever has rightly taken over since. So an error that kafka-python can't recover from is WriterFenced too.
    """

    def __init__(self, settings: KafkaSettings, transactional_id: str) -> None:
        self._settings = settings
        self._id = transactional_id
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None
        self._claimed = False
        self._lost_because: str | None = None
        self._ending: Future[None] | None = None

    def write(self, records: Sequence[KeyedRecord]) -> None:
        """See `EventLog.produce_transaction`."""
        with self._lock:
            deadline = time.monotonic() + self._settings.delivery_timeout_seconds
            if self._lost_because is not None:
                raise WriterFenced(self._lost_because)
            self._finish_last(deadline)
            producer = self._claim(deadline)
            try:
                producer.begin_transaction()
            except KafkaError as error:
                raise self._lost(error) from error
            self._append(producer, records, deadline)
            self._end(producer.commit_transaction, deadline, "it is not known whether it was committed")

    def _claim(self, deadline: float) -> KafkaProducer:
        """The producer, with the id claimed: every earlier holder is fenced off."""
        if self._producer is None:
            self._producer = connect(KafkaProducer, self._settings.producer() | {"transactional_id": self._id})
        while not self._claimed:
            try:
                self._producer.init_transactions()
                self._claimed = True
            except KafkaTimeoutError as error:
                if time.monotonic() > deadline:
                    raise translate(error, f"claiming {self._id}") from error
            except KafkaError as error:
                close_producer(self._producer, 0.0)
                self._producer = None
                raise translate(error, f"claiming {self._id}") from error
        return self._producer

    def _append(self, producer: KafkaProducer, records: Sequence[KeyedRecord], deadline: float) -> None:
        try:
            sent = [producer.send(topic, value, key) for topic, key, value in records]
            producer.flush(max(0.0, deadline - time.monotonic()))
            for future in sent:
                future.get(0)
        except _FENCED as error:
            raise self._lost(error) from error
        except (KafkaError, ValueError) as error:
            self._end(producer.abort_transaction, deadline, "it was not committed")
            raise translate(error, f"transaction of {self._id} was not committed") from error

    def _end(self, operation: Callable[[], None], deadline: float, outcome: str) -> None:
        """Commit or abort. kafka-python waits without bound, so it waits in a thread and we wait here."""
        self._ending = _in_background(operation)
        try:
            self._ending.result(max(0.0, deadline - time.monotonic()))
        except StillRunning as error:
            raise LogUnavailable(f"transaction of {self._id}: no answer from the broker; {outcome}") from error
        except KafkaError as error:
            raise self._lost(error) from error
        self._ending = None

    def _finish_last(self, deadline: float) -> None:
        """Wait for a commit or abort that an earlier call gave up on."""
        if self._ending is None:
            return
        try:
            self._ending.result(max(0.0, deadline - time.monotonic()))
        except StillRunning as error:
            raise LogUnavailable(f"transaction of {self._id}: the last one has still not ended") from error
        except KafkaError as error:
            raise self._lost(error) from error
        self._ending = None

    def _lost(self, error: KafkaError) -> WriterFenced:
        taken = isinstance(error, _FENCED) or isinstance(error.__cause__, _FENCED)
        reason = "a later writer has taken it over" if taken else "it can't be proved that no later writer has"
        self._lost_because = f"transactional id {self._id}: {reason} ({type(error).__name__}: {error})"
        return WriterFenced(self._lost_because)

    def close(self, timeout_seconds: float) -> None:
        """Disconnect; an open transaction is aborted by the broker's time-out. Idempotent."""
        with self._lock:
            if self._producer is not None:
                close_producer(self._producer, timeout_seconds)
                self._producer = None
            self._lost_because = self._lost_because or f"transactional id {self._id}: this log is closed"


def _in_background(operation: Callable[[], None]) -> Future[None]:
    future: Future[None] = Future()

    def run() -> None:
        try:
            operation()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="kafka-transaction", daemon=True).start()
    return future
