"""Routing over HTTP while replicas die, hang and come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from contracts.replica import RankRequest, ReplicaState
from gateway.metrics import GatewayMetrics
from gateway.pool import DeadlinePassed, NoReplica, Ranked, ReplicaPool
from gateway.replica_client import ReplicaFailed
from gateway.routing import LeastLoaded
from gateway.settings import GatewaySettings
from tests.unit.gateway.replica_double import ReplicaDouble


@pytest.fixture
async def doubles() -> AsyncIterator[list[ReplicaDouble]]:
    found = [ReplicaDouble("one"), ReplicaDouble("two")]
    runners = [await double.start() for double in found]
    yield found
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def pool(doubles: list[ReplicaDouble]) -> AsyncIterator[ReplicaPool]:
    settings = GatewaySettings(replicas=tuple(double.url for double in doubles), status_interval_seconds=0.05)
    made = ReplicaPool(settings, LeastLoaded(), GatewayMetrics())
    await made.start()
    yield made
    await made.stop()


async def rank(pool: ReplicaPool, seconds: float = 5.0, min_version: int | None = None) -> Ranked:
    request = RankRequest(request_id="r", history=["a"], num_results=1)
    return await pool.rank(request, "u", time.monotonic() + seconds, min_version)


def who(ranked: Ranked) -> str:
    return ranked.answer.items[0].item_id


async def test_both_replicas_are_used(pool: ReplicaPool) -> None:
    assert {who(await rank(pool)) for _ in range(40)} == {"one", "two"}


@pytest.mark.parametrize("way", ["dies", "unready"])
async def test_a_request_a_replica_drops_is_answered_by_the_other(
    pool: ReplicaPool, doubles: list[ReplicaDouble], way: str
) -> None:
    setattr(doubles[0], way, True)
    assert {who(answer) for answer in await asyncio.gather(*(rank(pool) for _ in range(20)))} == {"two"}
    assert doubles[0].ranked  # it was asked, and that is what made the others go elsewhere


async def test_a_failed_replica_gets_nothing_until_its_status_is_good_again(
    pool: ReplicaPool, doubles: list[ReplicaDouble]
) -> None:
    doubles[0].state = ReplicaState.STARTING
    await until_usable(pool, 1)
    asked = len(doubles[0].ranked)
    for _ in range(20):
        await rank(pool)
    assert len(doubles[0].ranked) == asked
    doubles[0].state = ReplicaState.READY
    await until_usable(pool, 2)
    assert {who(await rank(pool)) for _ in range(40)} == {"one", "two"}


async def test_a_full_replica_s_requests_go_to_the_other_and_it_stays_in_the_pool(
    pool: ReplicaPool, doubles: list[ReplicaDouble]
) -> None:
    doubles[0].full = True
    assert {who(await rank(pool)) for _ in range(20)} == {"two"}
    assert len(doubles[0].ranked) > 1
    assert len(pool.usable) == 2


async def test_a_replica_that_hangs_costs_half_the_time_not_the_answer(
    pool: ReplicaPool, doubles: list[ReplicaDouble]
) -> None:
    doubles[0].hangs = True
    answers = await asyncio.gather(*(rank(pool, seconds=0.4) for _ in range(10)))
    assert {who(answer) for answer in answers} == {"two"}


async def test_both_dead_is_a_failure_and_both_hanging_a_deadline(
    pool: ReplicaPool, doubles: list[ReplicaDouble]
) -> None:
    for double in doubles:
        double.dies = True
    with pytest.raises(ReplicaFailed):
        await rank(pool)
    assert all(double.ranked for double in doubles)
    for double in doubles:
        double.dies, double.hangs = False, True
    await until_usable(pool, 2)
    with pytest.raises(DeadlinePassed):
        await rank(pool, seconds=0.2)


async def test_a_version_asked_for_is_found_or_there_is_no_replica(
    pool: ReplicaPool, doubles: list[ReplicaDouble]
) -> None:
    doubles[1].version = 7
    async with asyncio.timeout(5):
        while pool.replicas[1].version != 7:
            await pool.changed.wait()
            pool.changed.clear()
    assert {who(await rank(pool, min_version=7)) for _ in range(10)} == {"two"}
    with pytest.raises(NoReplica):
        await rank(pool, min_version=8)


async def test_a_status_asked_for_before_a_swap_does_not_undo_it(
    pool: ReplicaPool, doubles: list[ReplicaDouble]
) -> None:
    replica = pool.replicas[0]
    doubles[0].status_seconds = 0.1
    asking = asyncio.create_task(replica.refresh(1.0))
    await asyncio.sleep(0.02)
    await replica.stage(2, 1.0)
    await replica.commit(2, 1.0)
    await asking
    assert replica.version == 2


async def test_a_replica_that_swaps_is_routed_around(pool: ReplicaPool) -> None:
    pool.replicas[0].swapping = True
    assert {who(await rank(pool)) for _ in range(20)} == {"two"}
    pool.replicas[1].swapping = True  # the only ones there: then they are asked after all
    assert {who(await rank(pool)) for _ in range(40)} == {"one", "two"}


async def until_usable(pool: ReplicaPool, count: int) -> None:
    async with asyncio.timeout(5):
        while len(pool.usable) != count:
            await pool.changed.wait()
            pool.changed.clear()
