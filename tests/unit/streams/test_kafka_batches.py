"""Record batches unpacked at once: what kafka-python's own loop gives, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from kafka.structs import TopicPartition

from streams.event_log import Record
from streams.kafka_batches import BatchRecords, unpack

PLACE = TopicPartition("t", 3)
maybe = st.none() | st.binary(max_size=200)
rows = st.lists(
    st.tuples(
        st.integers(0, 2**41), maybe, maybe, st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=9)), max_size=2)
    ),
    min_size=1,
    max_size=30,
)


def built(
    records: Sequence[tuple[int, Any, Any, Any]], first: int = 0, compression: int = 0, producer: int = -1
) -> bytes:
    builder = DefaultRecordBatchBuilder(
        2, compression, producer >= 0, producer, 0 if producer >= 0 else -1, 0 if producer >= 0 else -1, 10**7
    )
    for place, (timestamp, key, value, headers) in enumerate(records):
        builder.append(place, timestamp=timestamp, key=key, value=value, headers=headers)
    data = bytearray(builder.build())
    data[:8] = first.to_bytes(8, "big")
    return bytes(data)


def plain(count: int, first: int = 0, producer: int = -1) -> bytes:
    return built([(1000 + n, b"k", b"v%d" % n, []) for n in range(count)], first, producer=producer)


def opened(kind: type, data: bytes, start: int = 0, aborted: Sequence[Any] = ()) -> Any:
    return kind(
        start,
        PLACE,
        MemoryRecords(data),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=list(aborted),
    )


@given(rows, st.sampled_from([0, 1, 3, 4]), st.integers(0, 2**40))
def test_records_are_what_kafka_python_reads(records: Any, compression: int, first: int) -> None:
    data = built(records, first, compression)
    wanted = [
        Record("t", 3, one.offset, one.key, one.value, one.timestamp / 1000.0, tuple(one.headers))
        for one in DefaultRecordBatch(data)
    ]
    assert unpack(DefaultRecordBatch(data), "t", 3, 0) == wanted
    assert unpack(DefaultRecordBatch(data), "t", 3, first + 2) == wanted[2:]


@given(st.integers(1, 9), st.integers(0, 14))
def test_taking_moves_the_offset_as_kafka_python_does(size: int, start: int) -> None:
    data = plain(5) + plain(4, 5) + plain(6, 9)
    ours, theirs = opened(BatchRecords, data, start), opened(Fetcher.PartitionRecords, data, start)
    got: list[Record] = []
    while ours:
        found = ours.take(size)
        wanted = theirs.take(size)
        assert [one.offset for one in found] == [one.offset for one in wanted]
        assert ours.next_fetch_offset == (found[-1].offset + 1 if found else 15)
        got += found
    assert [one.offset for one in got] == list(range(start, 15))
    assert ours.next_fetch_offset == 15


def test_an_aborted_transaction_is_left_out_and_passed_over() -> None:
    aborted = [SimpleNamespace(producer_id=7, first_offset=2)]
    data = plain(2) + plain(3, 2, producer=7) + plain(1, 5, producer=8)
    ours = opened(BatchRecords, data, aborted=aborted)
    assert [one.offset for one in ours.take(100)] == [0, 1, 5]
    last = opened(BatchRecords, plain(2) + plain(3, 2, producer=7), aborted=aborted)
    assert [one.offset for one in last.take(100)] == [0, 1]
    assert not last and last.next_fetch_offset == 5


def test_what_stands_before_damage_is_given_out_first() -> None:
    damaged = bytearray(plain(2, 3))
    damaged[-1] ^= 1
    ours = opened(BatchRecords, plain(3) + bytes(damaged))
    assert len(ours.take(100)) == 3
    with pytest.raises(CorruptRecordError, match="offset 3 fails its checksum"):
        ours.take(100)


@pytest.mark.parametrize("cut", [1, 3, 8])
def test_a_record_that_ends_elsewhere_is_refused(cut: int) -> None:
    with pytest.raises(CorruptRecordError):
        unpack(DefaultRecordBatch(plain(3)[:-cut]), "t", 3, 0)
    with pytest.raises(CorruptRecordError, match="behind the last record"):
        unpack(DefaultRecordBatch(plain(3) + bytes(cut)), "t", 3, 0)
