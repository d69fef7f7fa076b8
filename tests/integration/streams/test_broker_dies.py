"""Apache Kafka is killed, is not there, comes back: what the log promises then. Each restart costs about 5 s."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Future, wait

import psutil
import pytest

from streams.apache_kafka import ApacheKafka
from streams.catch_up import read_until
from streams.event_log import EventLog, LogSaturated, LogUnavailable, Partition, Position
from streams.kafka_log import KafkaEventLog
from tests.kafka_fixtures import topic_maker

pytestmark = pytest.mark.kafka

_BOUND = 4 * 2**20

_OUTAGE_SECONDS = 8.0
"""kafka-python's back-off doubles from 50 ms: without our bound its next attempt would come about 5 s after this."""


def values_of(log: EventLog, topic: str) -> list[bytes | None]:
    partitions = log.partitions(topic)
    reader = log.open_reader(log.begin_offsets(partitions))
    try:
        return [r.value for records in read_until(reader, log.end_offsets(partitions)) for r in records]
    finally:
        reader.close()


class Load:
    """Produces numbered values, about 1,000 a second, until told to stop; keeps what became of each."""

    def __init__(self, log: EventLog, topic: str) -> None:
        self.log, self.topic = log, topic
        self.sent: dict[bytes, Future[Position]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.005):
            for _ in range(5):
                value = b"%d" % number
                self.sent[value] = self.log.produce(self.topic, b"user-%d" % (number % 50), value)
                number += 1

    def acknowledged(self) -> int:
        return sum(future.done() for future in list(self.sent.values()))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def wait_for(condition: object, timeout_seconds: float) -> float:
    """Seconds until `condition()` holds."""
    started = time.monotonic()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() - started < timeout_seconds, "it never came true"
        time.sleep(0.01)
    return time.monotonic() - started


def test_kill_9_under_load_loses_nothing_acknowledged_and_repeats_nothing(apache_kafka: ApacheKafka) -> None:
    topic = topic_maker(apache_kafka.bootstrap)()
    log = KafkaEventLog(apache_kafka.bootstrap)
    reader = log.open_reader(dict.fromkeys(log.partitions(topic), 0))
    load = Load(log, topic)
    wait_for(lambda: load.acknowledged() > 500, 20)
    apache_kafka.kill()
    killed = time.monotonic()
    assert reader.poll(10_000, 0.2) is not None  # an outage is waited out, not raised
    time.sleep(_OUTAGE_SECONDS - 5.0)  # a restart takes the other 5 s
    apache_kafka.start()
    assert time.monotonic() - killed > _OUTAGE_SECONDS - 1.0
    before = load.acknowledged()
    seconds = wait_for(lambda: load.acknowledged() > before, 10)
    assert seconds < 3, f"the first acknowledgement came {seconds:.1f} s after the broker served again"
    load.stop()
    log.flush(20)
    acknowledged = {value for value, future in load.sent.items() if future.exception(0) is None}
    assert len(acknowledged) > before
    there = Counter(values_of(log, topic))
    assert acknowledged - there.keys() == set()
    assert [value for value, count in there.items() if count > 1] == []
    ends = log.end_offsets(log.partitions(topic))
    for partition in ends:
        reader.seek(partition, 0)
    assert sum(len(records) for records in read_until(reader, ends, 10.0)) == sum(there.values())
    reader.close()
    log.close()


def test_with_the_broker_gone_memory_is_bounded_and_the_accepted_arrive(apache_kafka: ApacheKafka) -> None:
    topic = topic_maker(apache_kafka.bootstrap)(partitions=2)
    log = KafkaEventLog(apache_kafka.bootstrap, max_in_flight_bytes=_BOUND)
    log.produce(topic, b"k", b"first").result(10)
    apache_kafka.kill()
    rss = psutil.Process().memory_info().rss
    accepted: list[Future[Position]] = []
    started = time.monotonic()
    with pytest.raises(LogSaturated, match=str(_BOUND)):
        accepted.extend(log.produce(topic, b"k%d" % number, b"%06d" % number) for number in range(100_000))
    assert time.monotonic() - started < 3  # not one call blocked
    assert log.in_flight_bytes <= _BOUND
    grown = psutil.Process().memory_info().rss - rss
    assert grown < 2 * _BOUND, f"{len(accepted)} records of 6 bytes took {grown} bytes, the bound is {_BOUND}"
    with pytest.raises(LogUnavailable):
        log.flush(0.2)
    with pytest.raises(LogUnavailable):
        log.end_offsets([Partition(topic, 0)])
    apache_kafka.start()
    log.flush(20)
    assert wait(accepted, 5).not_done == set()
    assert log.in_flight_bytes == 0
    there = values_of(log, topic)
    assert sorted(there) == [*(b"%06d" % number for number in range(len(accepted))), b"first"]
    log.close()


def test_a_log_made_while_no_broker_is_up_works_once_one_comes(apache_kafka: ApacheKafka) -> None:
    topic = topic_maker(apache_kafka.bootstrap)(partitions=1)
    apache_kafka.stop()
    before = set(threading.enumerate())
    started = time.monotonic()
    log = KafkaEventLog(apache_kafka.bootstrap, connect_timeout_seconds=0.5)
    futures = [log.produce(topic, b"k", b"%d" % number) for number in range(10)]
    assert time.monotonic() - started < 0.1
    for ask in (
        lambda: log.partitions(topic),
        lambda: log.end_offsets([Partition(topic, 0)]),
        lambda: log.open_reader({Partition(topic, 0): 0}),
        lambda: log.flush(0.1),
    ):
        started = time.monotonic()
        with pytest.raises(LogUnavailable):
            ask()
        assert time.monotonic() - started < 1.5
    brief = KafkaEventLog(apache_kafka.bootstrap, delivery_timeout_seconds=1.0, request_timeout_seconds=1.0)
    with pytest.raises(LogUnavailable, match="not sent in time"):
        brief.produce(topic, b"k", b"never").result(10)
    brief.close()
    apache_kafka.start()
    assert [future.result(10).offset for future in futures] == list(range(10))
    assert values_of(log, topic) == [b"%d" % number for number in range(10)]
    log.close()
    assert set(threading.enumerate()) == before


def test_a_reader_says_so_when_the_broker_stays_away(apache_kafka: ApacheKafka) -> None:
    topic = topic_maker(apache_kafka.bootstrap)(partitions=1)
    log = KafkaEventLog(
        apache_kafka.bootstrap, patience_seconds=0.5, delivery_timeout_seconds=3.0, request_timeout_seconds=2.0
    )
    log.produce(topic, b"k", b"v").result(10)
    log.produce_transaction("writer-" + topic, [(topic, b"k", b"w")])
    reader = log.open_reader({Partition(topic, 0): 0})
    list(read_until(reader, log.end_offsets([Partition(topic, 0)])))
    assert reader.poll(10, 0.7) == []  # a quiet topic alone is no reason
    assert reader.poll(10, 0.1) == []
    apache_kafka.kill()
    with pytest.raises(LogUnavailable, match="nothing heard"):
        for _ in range(5):
            reader.poll(10, 0.3)
    started = time.monotonic()
    with pytest.raises(LogUnavailable):
        log.produce_transaction("writer-" + topic, [(topic, b"k", b"x")])
    assert time.monotonic() - started < 6
    apache_kafka.start()
    log.produce_transaction("writer-" + topic, [(topic, b"k", b"y")])
    values = values_of(log, topic)
    assert [value for value in values if value != b"x"] == [b"v", b"w", b"y"]
    assert values.count(b"x") <= 1
    reader.close()
    log.close()
