"""An idempotent Kafka producer that never blocks its caller and never holds more than a bound.

kafka-python's own producer blocks in three places: its constructor connects, the first record of a topic waits for
metadata, and (since 3.0) nothing at all holds back a caller whose broker is gone: 1.2 GiB in 5 s. So records wait
here, within a budget of bytes, until a thread of ours has connected and knows their topic; from then on `produce`
hands over directly.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from streams.byte_budget import ByteBudget
from streams.event_log import Headers, LogSaturated, LogUnavailable, Position, RecordRefused
from streams.kafka_connection import connect, translate
from streams.kafka_settings import MAX_RECORD_BYTES, KafkaSettings

RECORD_OVERHEAD_BYTES = 3072
"""What a record in flight costs beside its bytes: 2.8 kB measured, with the broker stopped and 16,000 records of 10
bytes accepted. Three futures with their locks and callbacks, and its share of a batch's buffers."""

_HAND_OVER = 256
"""Records handed over under one hold of the lock, 5 ms: how long a `produce` may have to wait at a recovery."""

_RETRY_SECONDS = 0.2


@dataclass(slots=True)
class _InFlight:
    """A record and its promise. Its methods are kafka-python's callbacks: closures would be five objects more for the
    garbage collector to walk, which is a third of the time a record takes."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None
    size: int
    deadline: float
    budget: ByteBudget
    future: Future[Position]

    def acknowledged(self, metadata: Any) -> None:
        """`metadata` is kafka-python's RecordMetadata: topic, partition, …, offset."""
        self.budget.give_back(self.size)
        self.future.set_result(Position(metadata[0], metadata[1], metadata[3]))

    def not_acknowledged(self, error: BaseException) -> None:
        self.fail(translate(error, f"sending to {self.topic}"))

    def fail(self, error: Exception) -> None:
        self.budget.give_back(self.size)
        self.future.set_exception(error)


class BoundedProducer:
    """Sends records in the order `produce` was called, topic by topic. Thread-safe."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.budget = ByteBudget(settings.max_in_flight_bytes)
        self._producer: KafkaProducer | None = None
        self._ready: set[str] = set()
        self._waiting: dict[str, deque[_InFlight]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def produce(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None
    ) -> Future[Position]:
        """See `EventLog.produce`."""
        payload = (len(key) if key else 0) + (len(value) if value else 0)
        if headers:
            payload += sum(len(name) + len(content) for name, content in headers)
        if payload > MAX_RECORD_BYTES:
            raise RecordRefused(f"a record of {payload} bytes for {topic}: at most {MAX_RECORD_BYTES} are taken")
        size = payload + RECORD_OVERHEAD_BYTES
        if not self.budget.take(size):
            raise LogSaturated(
                f"{self.budget.used} bytes wait for an acknowledgement, {self.budget.limit} is the bound: wait, or "
                "shed load; is the broker up?"
            )
        deadline = time.monotonic() + self._settings.delivery_timeout_seconds
        record = _InFlight(topic, key, value, headers, partition, size, deadline, self.budget, Future())
        record.future.set_running_or_notify_cancel()  # a record on its way can't be cancelled
        if topic in self._ready:
            self._send(record)
        else:
            self._wait_for_topic(record)
        return record.future

    def _wait_for_topic(self, record: _InFlight) -> None:
        with self._changed:
            if self._closed:
                record.fail(LogUnavailable("the log is closed"))
            elif record.topic in self._ready:
                self._send(record)
            else:
                self._waiting.setdefault(record.topic, deque()).append(record)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="kafka-hand-over", daemon=True)
                    self._thread.start()
                self._changed.notify_all()

    def _send(self, record: _InFlight) -> None:
        producer: KafkaProducer = self._producer  # connected: only then does a topic become ready
        try:
            sent = producer.send(
                record.topic, record.value, record.key, list(record.headers), partition=record.partition
            )
        except ValueError as error:
            record.fail(RecordRefused(f"sending to {record.topic}: {error}"))
            return
        except KafkaError as error:
            record.not_acknowledged(error)
            return
        sent.add_callback(record.acknowledged)
        sent.add_errback(record.not_acknowledged)

    def _run(self) -> None:
        """Connect, learn the topics that records wait for, hand the records over; until closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                topics = list(self._waiting)
            problem = self._hand_over(topics)
            if problem is not None:
                self._fail_overdue(problem)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, _RETRY_SECONDS)

    def _hand_over(self, topics: list[str]) -> Exception | None:
        """Send what waits for `topics`; the problem that kept the last one back, if any did."""
        problem: Exception | None = None
        for topic in topics:
            try:
                if self._producer is None:
                    self._producer = connect(KafkaProducer, self._settings.producer())
                self._producer.partitions_for(topic)
            except LogUnavailable as error:
                problem = error
            except KafkaError as error:
                problem = translate(error, f"topic {topic} is not known at {self._settings.bootstrap}")
            else:
                while not self._send_some(topic):
                    pass
        return problem

    def _send_some(self, topic: str) -> bool:
        """Hand over up to `_HAND_OVER` records; True when none waits any more and `topic` is ready."""
        with self._changed:
            waiting = self._waiting[topic]
            for _ in range(min(_HAND_OVER, len(waiting))):
                self._send(waiting.popleft())
            if waiting:
                return False
            del self._waiting[topic]
            self._ready.add(topic)
            self._changed.notify_all()
            return True

    def _fail_overdue(self, problem: Exception, *, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        overdue: list[_InFlight] = []
        with self._changed:
            for topic, waiting in list(self._waiting.items()):
                while waiting and waiting[0].deadline <= now:
                    overdue.append(waiting.popleft())
                if not waiting:
                    del self._waiting[topic]
            self._changed.notify_all()
        for record in overdue:
            record.fail(LogUnavailable(f"{record.topic}: not sent in time: {problem}"))

    def flush(self, timeout_seconds: float) -> None:
        """See `EventLog.flush`."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            handed_over = self._changed.wait_for(lambda: not self._waiting, timeout_seconds)
        if not handed_over:
            raise LogUnavailable(f"records still wait for a broker after {timeout_seconds} s")
        if self._producer is not None:
            try:
                self._producer.flush(max(0.0, deadline - time.monotonic()))
            except KafkaError as error:
                raise translate(error, f"records are still unacknowledged after {timeout_seconds} s") from error

    def close(self, timeout_seconds: float) -> None:
        """Flush for at most `timeout_seconds`; what is then left fails with LogUnavailable. Idempotent."""
        with self._changed:
            if self._closed:
                return
            self._changed.wait_for(lambda: not self._waiting, timeout_seconds)
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._fail_overdue(LogUnavailable("the log was closed"), now=float("inf"))
        if self._producer is not None:
            close_producer(self._producer, timeout_seconds)


def close_producer(producer: KafkaProducer, timeout_seconds: float) -> None:
    """Close within `timeout_seconds`; what is then unacknowledged fails.

    `KafkaProducer.close` of kafka-python 3.0.12 raises while records are in flight and leaves its thread running, so
    they are given up first, by the sender's own `force_close`.
    """
    try:
        producer.flush(timeout_seconds)
    except KafkaError:
        producer._sender.force_close()
        producer._sender.join(timeout_seconds)
    producer.close(timeout_seconds)
