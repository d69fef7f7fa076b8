"""The rollout over HTTP: order, refusals, stragglers, operators, and the live record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from contracts.release import LiveVersion, ReleaseAnnouncement
from gateway.metrics import GatewayMetrics
from gateway.pool import ReplicaPool
from gateway.release_states import ReleaseState
from gateway.rollout import Rollout, RolloutRefused
from gateway.routing import LeastLoaded
from gateway.settings import GatewaySettings
from gateway.swaps import Swaps
from streams.event_log import LogUnavailable
from tests.unit.gateway.replica_double import ReplicaDouble


@dataclass
class Scene:
    doubles: list[ReplicaDouble]
    pool: ReplicaPool
    rollout: Rollout
    written: list[LiveVersion]
    registry: CollectorRegistry
    log_down: bool = False
    journal: list[tuple[str, str]] = field(default_factory=list)

    async def announce(self, *versions: int) -> None:
        for version in versions:
            self.rollout.announce(ReleaseAnnouncement(model="m", version=version, epoch=1, manifest_sha256="0" * 64))
        await self.rollout.round()

    async def refresh(self) -> None:
        for replica in self.pool.replicas:
            await replica.refresh(1.0)

    @property
    def versions(self) -> list[int]:
        return [double.version for double in self.doubles]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    journal: list[tuple[str, str]] = []
    doubles = [ReplicaDouble("one", journal=journal), ReplicaDouble("two", journal=journal)]
    runners = [await double.start() for double in doubles]
    settings = GatewaySettings(replicas=tuple(d.url for d in doubles), status_interval_seconds=60)
    metrics = GatewayMetrics()
    pool = ReplicaPool(settings, LeastLoaded(), metrics)
    await pool.start()

    async def write(record: LiveVersion) -> None:
        if made.log_down:
            raise LogUnavailable("no broker")
        made.written.append(record)

    rollout = Rollout(pool, Swaps(metrics, timeout_seconds=5), write, metrics)
    made = Scene(doubles, pool, rollout, [], metrics.registry, journal=journal)
    yield made
    await pool.stop()
    for runner in runners:
        await runner.cleanup()


async def test_a_release_is_staged_everywhere_then_committed_one_after_another_then_recorded(scene: Scene) -> None:
    for double in scene.doubles:
        double.commit_seconds = 0.02
    await scene.announce(1)
    assert [(r.version, r.previous_version) for r in scene.written] == [(1, None)]  # the replicas came with it
    await scene.announce(2)
    assert scene.versions == [2, 2]
    steps = [what for _, what in scene.journal]
    assert steps == ["stage 2", "stage 2", "commit 2", "committed 2", "commit 2", "committed 2"]
    assert scene.journal[2][0] != scene.journal[4][0]
    assert [(r.version, r.previous_version) for r in scene.written] == [(1, None), (2, 1)]
    assert scene.rollout.book.states() == {1: ReleaseState.SUPERSEDED, 2: ReleaseState.LIVE}


async def test_a_replica_is_out_of_rotation_only_while_it_commits(scene: Scene) -> None:
    scene.doubles[0].commit_seconds = scene.doubles[1].commit_seconds = 0.05
    rolling = asyncio.create_task(scene.announce(2))
    seen: set[tuple[bool, ...]] = set()
    while not rolling.done():
        seen.add(tuple(replica.swapping for replica in scene.pool.replicas))
        await asyncio.sleep(0.005)
    assert (True, True) not in seen
    assert {(True, False), (False, True)} <= seen
    assert not any(replica.swapping for replica in scene.pool.replicas)


async def test_releases_between_two_swaps_are_passed_over(scene: Scene) -> None:
    await scene.announce(2, 3, 4)
    assert [double.staged for double in scene.doubles] == [[4], [4]]
    assert scene.rollout.newest == 4


async def test_a_replica_that_refuses_keeps_its_version_and_does_not_hold_up_the_other(scene: Scene) -> None:
    await scene.announce(1)
    scene.doubles[0].refuse = {2}
    await scene.announce(2)
    assert scene.versions == [1, 2]
    assert scene.written[-1].version == 2
    await scene.rollout.round()  # it is not asked again at once
    assert scene.journal.count(("one", "stage 2")) == 1
    await scene.announce(3)
    assert scene.versions == [3, 3]


async def test_a_release_that_everybody_refuses_never_goes_live(scene: Scene) -> None:
    await scene.announce(1)
    for double in scene.doubles:
        double.refuse = {2}
    await scene.announce(2)
    assert scene.versions == [1, 1]
    assert [record.version for record in scene.written] == [1]
    assert scene.rollout.book.state(2) is ReleaseState.PUBLISHED


async def test_a_replica_that_was_away_is_caught_up(scene: Scene) -> None:
    await scene.announce(2)
    scene.doubles[1].version = 1
    scene.doubles[1].staged = []
    await scene.refresh()
    await scene.rollout.round()
    assert scene.versions == [2, 2]
    assert [record.version for record in scene.written] == [2]


async def test_paused_nothing_new_is_rolled_out_and_resuming_goes_to_the_newest(scene: Scene) -> None:
    await scene.announce(1)
    await scene.rollout.pause()
    await scene.announce(2, 3)
    assert scene.versions == [1, 1]
    assert scene.written[-1].paused
    await scene.rollout.resume()
    await scene.rollout.round()
    assert scene.versions == [3, 3]
    assert not scene.written[-1].paused


async def test_rolling_back_uses_the_replicas_memory_pauses_and_is_recorded(scene: Scene) -> None:
    await scene.announce(1)
    await scene.announce(2)
    scene.journal.clear()
    served = await scene.rollout.roll_back()
    assert len(served) == 2
    assert scene.versions == [1, 1]
    assert [what for _, what in scene.journal] == ["roll back to 1"] * 2
    assert (scene.written[-1].version, scene.written[-1].paused) == (1, True)
    assert scene.rollout.book.states() == {1: ReleaseState.LIVE, 2: ReleaseState.ROLLED_BACK}
    with pytest.raises(RolloutRefused, match="no earlier version"):
        await scene.rollout.roll_back()
    await scene.rollout.resume()
    await scene.rollout.round()
    assert scene.versions == [1, 1]  # the version that was sent back does not return by itself
    await scene.announce(3)
    assert scene.versions == [3, 3]


async def test_a_replica_without_the_old_version_in_memory_is_rolled_back_from_the_store(scene: Scene) -> None:
    await scene.announce(1)
    await scene.announce(2)
    scene.doubles[0].previous = None  # it was restarted
    scene.doubles[1].previous = 9  # it had missed version 1
    await scene.rollout.roll_back()
    assert scene.versions == [1, 1]


async def test_an_operator_promotes_any_version_and_that_pauses(scene: Scene) -> None:
    await scene.announce(1)
    await scene.announce(5)
    await scene.rollout.promote(3)
    await scene.rollout.round()
    assert scene.versions == [3, 3]
    assert scene.rollout.paused
    assert (scene.written[-1].version, scene.written[-1].previous_version) == (3, 5)
    for double in scene.doubles:
        double.refuse = {4}
    with pytest.raises(RolloutRefused, match="release store"):
        await scene.rollout.promote(4)
    assert scene.versions == [3, 3]


async def test_promoting_what_is_live_does_not_forget_what_was_before(scene: Scene) -> None:
    await scene.announce(1)
    await scene.announce(2)
    await scene.rollout.promote(2)
    assert not scene.rollout.paused  # it is the newest
    await scene.rollout.roll_back()
    assert scene.versions == [1, 1]


async def test_the_live_record_waits_for_the_log_and_is_not_lost(scene: Scene) -> None:
    scene.log_down = True
    with pytest.raises(LogUnavailable):
        await scene.announce(2)
    assert scene.versions == [2, 2]
    scene.log_down = False
    await scene.rollout.round()
    assert [record.version for record in scene.written] == [2]


async def test_a_restarted_gateway_stays_paused_where_it_was(scene: Scene) -> None:
    scene.rollout.recorded(LiveVersion(model="m", version=1, committed_at=1.0, paused=True))
    await scene.announce(2)
    assert scene.versions == [1, 1]
    assert scene.rollout.paused
    assert scene.registry.get_sample_value("slipstream_live_version") == 1


async def test_other_models_releases_are_none_of_ours(scene: Scene) -> None:
    scene.rollout.announce(ReleaseAnnouncement(model="other", version=9, epoch=1, manifest_sha256="0" * 64))
    await scene.rollout.round()
    assert scene.rollout.newest is None
    assert scene.journal == []
