"""The tail knows when it has caught up, outlives what is missing, and says when it can't go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from contracts.topics import EVENTS
from gateway.log_tail import Handler, LogHealth, LogTail
from gateway.metrics import GatewayMetrics
from streams.event_log import Record
from streams.memory_log import MemoryEventLog, MemoryStore
from tests.unit.gateway.conftest import until

Start = Callable[[MemoryStore, Handler], LogTail]


@pytest.fixture
def health() -> LogHealth:
    return LogHealth(GatewayMetrics())


@pytest.fixture
def start(health: LogHealth, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr("gateway.log_tail._POLL_SECONDS", 0.02)
    monkeypatch.setattr("gateway.log_tail._PROBE_SECONDS", 0.02)
    tails: list[LogTail] = []

    def begin(store: MemoryStore, handler: Handler) -> LogTail:
        tails.append(LogTail(MemoryEventLog(store), {EVENTS: handler}, health))
        tails[-1].start()
        return tails[-1]

    yield begin
    for tail in tails:
        tail.stop()


def fill(store: MemoryStore, first: int, last: int) -> None:
    log = MemoryEventLog(store)
    for number in range(first, last):
        log.produce(EVENTS, str(number).encode(), str(number).encode())


def test_caught_up_means_every_record_of_the_start_has_been_handled(start: Start) -> None:
    store = MemoryStore({EVENTS: 2})
    fill(store, 0, 5000)  # more than one poll
    handled: list[Record] = []
    entered, allowed = threading.Semaphore(0), threading.Semaphore(0)

    def handle(records: Sequence[Record]) -> None:
        entered.release()
        assert allowed.acquire(timeout=10)
        handled.extend(records)

    tail = start(store, handle)
    for _ in range(3):  # 2000, 2000 and 1000 records
        assert entered.acquire(timeout=10)
        assert not tail.caught_up(EVENTS)
        allowed.release()
    until(lambda: tail.caught_up(EVENTS))
    assert len(handled) == 5000
    for partition in (0, 1):
        offsets = [record.offset for record in handled if record.partition == partition]
        assert offsets == list(range(len(offsets)))
    allowed.release(10)
    fill(store, 5000, 5010)
    until(lambda: len(handled) == 5010)


def test_an_empty_topic_is_caught_up_with_at_once(start: Start) -> None:
    tail = start(MemoryStore({EVENTS: 1}), lambda records: None)
    until(lambda: tail.caught_up(EVENTS))


def test_a_topic_that_is_missing_is_waited_for(start: Start, health: LogHealth) -> None:
    store = MemoryStore({EVENTS: 1})
    hidden = store.topics.pop(EVENTS)
    handled: list[Record] = []
    tail = start(store, handled.extend)
    until(lambda: "missing" in (health.problem or ""))
    assert not tail.caught_up(EVENTS)
    store.topics[EVENTS] = hidden
    fill(store, 0, 3)
    until(lambda: len(handled) == 3)
    until(lambda: health.problem is None)


def test_after_an_outage_reading_goes_on_where_it_was(
    start: Start, health: LogHealth, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streams.event_log import LogUnavailable

    store = MemoryStore({EVENTS: 1})
    fill(store, 0, 3)
    handled: list[Record] = []
    start(store, handled.extend)
    until(lambda: len(handled) == 3)

    def nobody(*_: object) -> None:
        raise LogUnavailable("no broker")

    with monkeypatch.context() as outage:
        outage.setattr(MemoryEventLog, "begin_offsets", nobody)
        until(lambda: health.problem == "no broker")
        fill(store, 3, 5)
    until(lambda: len(handled) == 5)
    assert [record.offset for record in handled] == [0, 1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_handler_that_fails_ends_the_tail_and_it_says_so(start: Start) -> None:
    store = MemoryStore({EVENTS: 1})
    fill(store, 0, 1)

    def fail(records: Sequence[Record]) -> None:
        raise RuntimeError("a bug")

    tail = start(store, fail)
    until(lambda: not tail.alive)
    assert not tail.caught_up(EVENTS)
