"""Nothing is acknowledged before the log has it; nothing waits without a bound. The log here answers when told to."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import msgspec
import pytest

from contracts.item import Item
from contracts.recommendation import EventReceipt
from contracts.topics import EVENTS
from gateway.problems import ProblemError
from gateway.service import Gateway
from gateway.settings import GatewaySettings
from streams.event_log import Headers, LogSaturated, LogUnavailable, Position
from streams.memory_log import MemoryEventLog, MemoryStore
from tests.unit.gateway.conftest import NOBODY, event


class HeldLog(MemoryEventLog):
    """A log whose acknowledgements wait for the test; it takes at most `room` records."""

    def __init__(self, room: int = 1000) -> None:
        super().__init__(MemoryStore({EVENTS: 1}))
        self.held: list[Future[Position]] = []
        self.room = room

    def produce(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), *, partition: int | None = None
    ) -> Future[Position]:
        if len(self.held) >= self.room:
            raise LogSaturated("full")
        self.held.append(Future())
        return self.held[-1]

    def acknowledge(self) -> None:
        for offset, future in enumerate(self.held):
            if not future.done():
                future.set_result(Position(EVENTS, 0, offset))

    def fail(self) -> None:
        for future in self.held:
            if not future.done():
                future.set_exception(LogUnavailable("gone"))


def gateway(log: HeldLog, **settings: object) -> Gateway:
    made = Gateway(GatewaySettings(replicas=(NOBODY,), **settings), log)  # type: ignore[arg-type]
    made.health.up()
    return made


async def take(gateway: Gateway, *event_ids: str) -> EventReceipt:
    return await gateway.intake.take([msgspec.Raw(msgspec.json.encode(event(i))) for i in event_ids])


async def produced(log: HeldLog, count: int) -> None:
    for _ in range(1000):
        if len(log.held) >= count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{len(log.held)} records, not {count}")


async def test_the_receipt_waits_for_the_last_acknowledgement_and_so_does_the_history() -> None:
    log = HeldLog()
    door = gateway(log)
    posting = asyncio.create_task(take(door, "1", "2"))
    await produced(log, 2)
    log.held[0].set_result(Position(EVENTS, 0, 0))
    await asyncio.sleep(0.02)
    assert not posting.done()
    assert door.histories.view("u").length == 0
    log.acknowledge()
    assert (await posting).accepted == 2
    assert door.histories.view("u").length == 2


async def test_an_id_on_its_way_is_not_produced_again_and_shares_its_fate() -> None:
    log = HeldLog()
    door = gateway(log)
    first = asyncio.create_task(take(door, "1"))
    await produced(log, 1)
    second = asyncio.create_task(take(door, "1"))
    await asyncio.sleep(0.02)
    assert len(log.held) == 1
    assert not second.done()
    log.acknowledge()
    assert ((await first).duplicates, (await second).duplicates) == (0, 1)


async def test_an_id_that_failed_is_unknown_and_a_retry_is_a_first_try() -> None:
    log = HeldLog()
    door = gateway(log)
    posting = asyncio.create_task(take(door, "1"))
    await produced(log, 1)
    log.fail()
    with pytest.raises(ProblemError) as refused:
        await posting
    assert refused.value.document.status == 503
    assert refused.value.headers["Retry-After"]
    assert not door.histories.knows("1")
    again = asyncio.create_task(take(door, "1"))
    await produced(log, 2)
    log.acknowledge()
    assert ((await again).accepted, (await again).duplicates) == (1, 0)


async def test_a_log_that_says_nothing_gives_503_in_time_and_then_at_once() -> None:
    log = HeldLog()
    door = gateway(log, ack_timeout_seconds=0.05)
    with pytest.raises(ProblemError, match="no acknowledgement within"):
        await take(door, "1")
    with pytest.raises(ProblemError):
        await take(door, "2")
    assert len(log.held) == 1  # the second was not even tried
    log.acknowledge()
    await asyncio.sleep(0.02)
    assert door.histories.knows("1")  # it came late, and counts
    assert (await take(door, "1")).duplicates == 1


async def test_events_that_wait_have_a_bound() -> None:
    log = HeldLog()
    door = gateway(log, max_pending_events=3)
    waiting = asyncio.create_task(take(door, "1", "2"))
    await produced(log, 2)
    with pytest.raises(ProblemError, match="wait for it already"):
        await take(door, "3", "4")
    assert len(log.held) == 2
    log.acknowledge()
    await waiting


async def test_a_full_log_acknowledges_nothing_it_did_not_take() -> None:
    log = HeldLog(room=1)
    door = gateway(log)
    posting = asyncio.create_task(take(door, "1", "2"))
    await produced(log, 1)
    log.acknowledge()
    with pytest.raises(ProblemError, match="1 of 2 events were not acknowledged"):
        await posting
    assert door.histories.knows("1")
    assert not door.histories.knows("2")


async def test_no_event_is_refused_for_its_item_before_the_items_are_known() -> None:
    log = HeldLog()
    door = Gateway(GatewaySettings(replicas=(NOBODY,)), log, items=[Item(item_id="b")])
    door.health.up()
    posting = asyncio.create_task(take(door, "1"))  # of item "a"; the items topic has not been read
    await produced(log, 1)
    log.acknowledge()
    assert (await posting).accepted == 1
