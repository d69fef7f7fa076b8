"""Which version a starting replica must reach."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from contracts.release import LiveVersion, ReleaseAnnouncement, live_key
from contracts.topics import RELEASES
from contracts.wire import encode
from serving.lifecycle import Lifecycle
from serving.live_version import current_version, wait_for_version
from serving.replica import Replica
from streams.event_log import LogUnavailable
from streams.memory_log import MemoryEventLog
from tests.serving_worlds import MODEL, until


def announce(log: MemoryEventLog, version: int) -> None:
    _write(log, MODEL, ReleaseAnnouncement(model=MODEL, version=version, epoch=1, manifest_sha256="0" * 64))


def make_live(log: MemoryEventLog, version: int) -> None:
    _write(log, live_key(MODEL), LiveVersion(model=MODEL, version=version, committed_at=0.0))


def _write(log: MemoryEventLog, key: str, message: msgspec.Struct) -> None:
    log.produce(RELEASES, key.encode(), encode(message)).result()


def test_the_live_version_goes_before_the_newest_announced(log: MemoryEventLog) -> None:
    assert current_version(log, MODEL) is None
    announce(log, 3)
    assert current_version(log, MODEL) == 3
    make_live(log, 2)
    announce(log, 4)
    assert current_version(log, MODEL) == 2
    assert current_version(log, "other") is None


def test_a_record_that_cannot_be_read_is_passed_over(log: MemoryEventLog) -> None:
    announce(log, 3)
    log.produce(RELEASES, live_key(MODEL).encode(), b"no json").result()
    assert current_version(log, MODEL) == 3


async def test_waits_for_the_first_release_and_says_so(log: MemoryEventLog) -> None:
    lifecycle = Lifecycle()
    waiting = asyncio.create_task(wait_for_version(log, MODEL, lifecycle))
    await until(lambda: "waiting for the first release" in lifecycle.reason)
    announce(log, 5)
    assert await asyncio.wait_for(waiting, 5) == 5


async def test_waits_for_a_log_that_is_away(log: MemoryEventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle, calls = Lifecycle(), 0
    real = log.partitions

    def away_once(topic: str) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise LogUnavailable("no broker at 127.0.0.1:9")
        return real(topic)

    announce(log, 1)
    monkeypatch.setattr(log, "partitions", away_once)
    async with asyncio.timeout(5):
        assert await wait_for_version(log, MODEL, lifecycle) == 1
    assert "no broker" in lifecycle.reason


async def test_a_release_that_retention_has_just_removed_is_asked_for_again(replica: Replica) -> None:
    versions = iter([9, 2])

    async def find() -> int:
        return next(versions)

    async with asyncio.timeout(10):
        await replica.bring_up(find)
    assert replica.status().version == 2
