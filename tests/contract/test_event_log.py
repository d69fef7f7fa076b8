"""What every `EventLog` does, over all of them: in memory, on Tansu (the demo's broker) and on Apache Kafka."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import pytest
from kafka import KafkaProducer

from streams import dead_letters
from streams.catch_up import newest_by_key, read_until
from streams.event_log import EventLog, LogUnavailable, Partition, Record, RecordRefused, WriterFenced
from streams.kafka_log import KafkaEventLog
from streams.memory_log import MemoryEventLog, MemoryStore
from tests.kafka_fixtures import is_apache, topic_maker

pytestmark = pytest.mark.kafka


class World:
    """One implementation: topics to make and connections to open."""

    def __init__(self, kind: str, bootstrap: str = "") -> None:
        self.kind = kind
        self.bootstrap = bootstrap
        self._store = MemoryStore({})
        self._open: list[EventLog] = []

    def connect(self, **settings: float) -> EventLog:
        log: EventLog = (
            MemoryEventLog(self._store)
            if self.kind == "memory"
            else KafkaEventLog(self.bootstrap, "contract", **settings)  # type: ignore[arg-type]
        )
        self._open.append(log)
        return log

    def topic(self, partitions: int = 1, cleanup: str = "delete") -> str:
        if self.kind != "memory":
            return topic_maker(self.bootstrap)("log", partitions, cleanup)
        name = f"topic-{len(self._store.topics)}"
        self._store.add_topic(name, partitions)
        self._store.add_topic(name + ".dlt", 1)
        return name

    def close(self) -> None:
        for log in self._open:
            log.close()


@pytest.fixture(params=["memory", "tansu", "apache"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    kind = request.param
    if kind == "memory":
        made = World(kind)
    elif kind == "tansu":
        made = World(kind, request.getfixturevalue("tansu_bootstrap"))
    else:
        made = World(kind, request.getfixturevalue("kafka_bootstrap"))
        if not is_apache(made.bootstrap):
            pytest.skip("no Apache Kafka")
    yield made
    made.close()


@pytest.fixture
def kafka_world(world: World) -> World:
    if world.kind == "memory":
        pytest.skip("about brokers")
    return world


def produce_all(log: EventLog, topic: str, values: Sequence[bytes]) -> None:
    """One record a value, to partition 0, acknowledged."""
    futures = [log.produce(topic, b"k", value, partition=0) for value in values]
    for future in futures:
        future.result(10)


def read_all(log: EventLog, topic: str) -> list[Record]:
    """Every committed record of `topic` that is there now."""
    partitions = log.partitions(topic)
    reader = log.open_reader(log.begin_offsets(partitions))
    try:
        return [record for records in read_until(reader, log.end_offsets(partitions), 5.0) for record in records]
    finally:
        reader.close()


def test_records_come_back_where_their_futures_say_and_in_each_keys_order(world: World) -> None:
    log, topic = world.connect(), world.topic(partitions=3)
    sent = [(f"user-{n % 7}".encode(), f"value-{n}".encode(), (("n", str(n).encode()),)) for n in range(300)]
    before = time.time()
    futures = [log.produce(topic, key, value, headers) for key, value, headers in sent]
    positions = [future.result(10) for future in futures]
    read = read_all(log, topic)
    at = {(record.topic, record.partition, record.offset): record for record in read}
    assert len(at) == len(read) == len(sent)
    order: dict[bytes | None, list[bytes | None]] = defaultdict(list)
    for record in read:
        order[record.key].append(record.value)
        assert before - 1 < record.timestamp < time.time() + 1
    for position, (key, value, headers) in zip(positions, sent, strict=True):
        assert (at[position].key, at[position].value, at[position].headers) == (key, value, headers)
    for key, values in order.items():
        assert values == [value for k, value, _ in sent if k == key]


def test_a_key_has_kafkas_partition(world: World) -> None:
    log, topic = world.connect(), world.topic(partitions=4)
    found = [log.produce(topic, key, b"v").result(10).partition for key in (b"1", b"42", b"user-7", b"a", b"")]
    assert found == [3, 0, 0, 0, 1]  # computed with Apache Kafka's own Utils.murmur2


def test_many_threads_may_produce(world: World) -> None:
    log, topic = world.connect(), world.topic(partitions=2)

    def work(name: int) -> None:
        for n in range(100):
            log.produce(topic, f"t{name}".encode(), str(n).encode())

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.flush(10)
    order: dict[bytes | None, list[bytes | None]] = defaultdict(list)
    for record in read_all(log, topic):
        order[record.key].append(record.value)
    assert len(order) == 4
    assert all(values == [str(n).encode() for n in range(100)] for values in order.values())


def test_a_reader_starts_where_it_is_told_and_seeks(world: World) -> None:
    log, topic = world.connect(), world.topic()
    partition = Partition(topic, 0)
    produce_all(log, topic, [b"%d" % n for n in range(20)])
    reader = log.open_reader({partition: 15})
    first = poll_some(reader.poll, 2)
    assert [record.offset for record in first] == [15, 16]
    assert reader.position(partition) == 17
    reader.seek(partition, 3)
    assert reader.position(partition) == 3
    assert poll_some(reader.poll, 1)[0].value == b"3"
    assert [record.offset for record in poll_some(reader.poll, 1)] == [4]
    reader.close()
    reader.close()


def poll_some(poll: Callable[[int, float], list[Record]], most: int, timeout_seconds: float = 10.0) -> list[Record]:
    """The first poll that finds anything."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        records = poll(most, 0.5)
        if records:
            assert len(records) <= most
            return records
    raise AssertionError("nothing to read")


def test_an_empty_poll_takes_its_time_and_no_more(world: World) -> None:
    log, topic = world.connect(), world.topic()
    reader = log.open_reader({Partition(topic, 0): 0})
    started = time.monotonic()
    assert reader.poll(10, 0.3) == []
    assert 0.25 < time.monotonic() - started < 2.0
    reader.close()


def test_end_offsets_are_exact_at_every_moment(world: World) -> None:
    log, topic = world.connect(), world.topic(partitions=2)
    first, second = log.partitions(topic)
    assert log.end_offsets([first, second]) == {first: 0, second: 0}
    for count in (1, 12, 40):
        produce_all(log, topic, [b"v"] * count)
    assert log.end_offsets([first, second]) == {first: 53, second: 0}
    assert log.begin_offsets([first, second]) == {first: 0, second: 0}
    assert log.produce(topic, b"k", b"v", partition=0).result(10).offset == 53
    assert log.end_offsets([first]) == {first: 54}


def test_a_transaction_is_read_whole_and_its_end_is_reached(world: World) -> None:
    log, topic, other = world.connect(), world.topic(), world.topic()
    log.produce_transaction("writer-" + topic, [(topic, b"k", b"1"), (topic, b"k", b"2"), (other, b"k", b"3")])
    log.produce_transaction("writer-" + topic, [(topic, b"k", b"4")])
    # read_until returns only once the position has passed the marker that ends the transaction.
    assert [record.value for record in read_all(log, topic)] == [b"1", b"2", b"4"]
    assert [record.value for record in read_all(log, other)] == [b"3"]


def test_a_later_writer_fences_off_the_earlier_one(world: World) -> None:
    topic = world.topic()
    earlier, later = world.connect(), world.connect()
    writer = "writer-" + topic
    earlier.produce_transaction(writer, [(topic, b"k", b"earlier")])
    later.produce_transaction(writer, [(topic, b"k", b"later")])
    for _ in range(2):  # the second time, too: a fenced writer does not claim the id back
        with pytest.raises(WriterFenced, match="later writer"):
            earlier.produce_transaction(writer, [(topic, b"k", b"zombie")])
    later.produce_transaction(writer, [(topic, b"k", b"later still")])
    assert [record.value for record in read_all(later, topic)] == [b"earlier", b"later", b"later still"]


def test_uncommitted_records_are_invisible_and_aborted_ones_stay_so(kafka_world: World) -> None:
    log, topic = kafka_world.connect(), kafka_world.topic()
    partition = Partition(topic, 0)
    reader = log.open_reader({partition: 0})
    raw = KafkaProducer(bootstrap_servers=kafka_world.bootstrap, transactional_id="raw-" + topic)
    raw.init_transactions()
    raw.begin_transaction()
    raw.send(topic, b"uncommitted", b"k").get(10)
    assert log.end_offsets([partition]) == {partition: 1}
    assert reader.poll(10, 0.5) == []
    assert reader.position(partition) == 0
    with pytest.raises(LogUnavailable, match="stands still"):
        list(read_until(reader, {partition: 1}, stall_seconds=0.2))
    if kafka_world.kind == "tansu":
        raw.commit_transaction()  # Tansu 0.6 shows aborted records to everybody
    else:
        raw.abort_transaction()
    raw.close()
    produce_all(log, topic, [b"after"])
    found = [record.value for records in read_until(reader, log.end_offsets([partition]), 5.0) for record in records]
    assert found == ([b"uncommitted", b"after"] if kafka_world.kind == "tansu" else [b"after"])
    reader.close()


def test_the_newest_record_of_each_key(world: World) -> None:
    log, topic = world.connect(), world.topic(cleanup="compact")
    assert newest_by_key(log, topic) == {}
    for key, value in [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"b", None)]:
        log.produce(topic, key, value).result(10)
    assert {key: record.value for key, record in newest_by_key(log, topic).items()} == {b"a": b"3"}


def test_what_cant_be_read_goes_to_the_dead_letters_with_its_origin(world: World) -> None:
    log, topic = world.connect(), world.topic(partitions=2)
    log.produce(topic, b"u", b"{not json", (("traceparent", b"00-1"),), partition=1).result(10)
    (bad,) = read_all(log, topic)
    dead_letters.send_to_dead_letters(log, bad, ValueError("not an Event: bad JSON")).result(10)
    (letter,) = read_all(log, topic + ".dlt")
    assert (letter.key, letter.value) == (b"u", b"{not json")
    headers = dict(letter.headers)
    assert headers["traceparent"] == b"00-1"
    assert headers[dead_letters.TOPIC] == topic.encode()
    assert (headers[dead_letters.PARTITION], headers[dead_letters.OFFSET]) == (b"1", b"0")
    assert float(headers[dead_letters.TIMESTAMP]) == pytest.approx(bad.timestamp)
    assert headers[dead_letters.EXCEPTION] == b"builtins.ValueError"
    assert headers[dead_letters.REASON] == b"not an Event: bad JSON"


def test_an_offset_that_is_not_there_is_an_error_that_names_both(world: World) -> None:
    if world.kind == "tansu":
        pytest.skip("Tansu answers an offset behind the end with nothing, for ever")
    log, topic = world.connect(), world.topic()
    produce_all(log, topic, [b"v"] * 5)
    reader = log.open_reader({Partition(topic, 0): 1000})
    for _ in range(2):
        with pytest.raises(LogUnavailable, match="no offset 1000: it holds 0 to 5"):
            poll_some(reader.poll, 10)
    reader.seek(Partition(topic, 0), 4)
    assert [record.offset for record in poll_some(reader.poll, 10)] == [4]
    reader.close()


def test_a_missing_topic_is_said_to_be_missing(world: World) -> None:
    log = world.connect(delivery_timeout_seconds=1.0, request_timeout_seconds=1.0, connect_timeout_seconds=0.5)
    with pytest.raises(LogUnavailable, match="no-such-topic is missing"):
        log.partitions("no-such-topic")
    with pytest.raises(LogUnavailable, match="no-such-topic"):
        log.produce("no-such-topic", b"k", b"v").result(15)
    with pytest.raises(LogUnavailable):
        log.produce_transaction("writer-of-nothing", [("no-such-topic", b"k", b"v")])


def test_a_record_that_is_never_taken_is_refused_for_good(kafka_world: World) -> None:
    log, topic = kafka_world.connect(), kafka_world.topic()
    with pytest.raises(RecordRefused, match="at most 1000000"):
        log.produce(topic, b"k", b"x" * 1_000_001)
    assert log.produce(topic, b"k", b"x" * 999_000).result(10).offset == 0
    with pytest.raises(RecordRefused, match="partition"):
        log.produce(topic, b"k", b"v", partition=7).result(10)
    if kafka_world.kind == "apache":
        compacted = kafka_world.topic(cleanup="compact")
        with pytest.raises(RecordRefused, match="InvalidRecord"):
            log.produce(compacted, None, b"a compacted topic needs keys").result(10)


def test_closing_ends_every_thread_and_what_comes_after_fails(kafka_world: World) -> None:
    before = set(threading.enumerate())
    log, topic = kafka_world.connect(), kafka_world.topic()
    produce_all(log, topic, [b"v"])
    log.end_offsets(log.partitions(topic))
    log.produce_transaction("writer-" + topic, [(topic, b"k", b"v")])
    future = log.produce(topic, b"k", b"last")
    log.close()
    log.close()
    assert future.result(0).offset >= 1
    with pytest.raises(LogUnavailable):
        log.produce(topic, b"k", b"v").result(1)
    with pytest.raises(LogUnavailable):
        log.partitions(topic)
    assert set(threading.enumerate()) == before
