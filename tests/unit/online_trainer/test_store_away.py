"""A release store that can't be reached: training goes on, commits go on, and releases come when it is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from online_trainer import publishing
from online_trainer.patience import Stopped
from online_trainer.trainer import Trainer
from releases import store_watch
from releases.files import Files
from releases.fsspec_store import FsspecReleaseStore
from releases.store import VersionTaken
from releases.unavailable import StoreUnavailable
from tests.unit.online_trainer.conftest import World, click

Run = Callable[..., Trainer]


class Bucket(Files):
    """Files whose server is away when told so; counts how often it was asked meanwhile."""

    def __init__(self, store: FsspecReleaseStore) -> None:
        self._files, self.away, self.asked = store._files, False, 0
        store._files = self

    def _reach(self) -> Files:
        if self.away:
            self.asked += 1
            raise StoreUnavailable("s3://bucket can't be reached")
        return self._files

    def create(self, path: str, data: bytes) -> None:
        self._reach().create(path, data)

    def read(self, path: str) -> bytes:
        return self._reach().read(path)

    def names(self, folder: str) -> list[str]:
        return self._reach().names(folder)

    def remove(self, path: str) -> None:
        self._reach().remove(path)


@pytest.fixture
def bucket(world: World) -> Bucket:
    return Bucket(world.store)


def test_training_and_commits_go_on_and_the_store_is_not_asked_at_each_release(
    world: World, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_watch, "_FIRST_PAUSE_SECONDS", 1000.0)
    world.send(*map(click, range(96)))
    trainer = world.trainer(publish_events=8)
    bucket.away = True
    while trainer.progress.events_trained < 80:
        trainer.run_once()
    metrics = trainer.metrics
    assert trainer.progress.committed is not None
    assert trainer.progress.committed.events_trained == 80, "a commit each eight events"
    assert bucket.asked == 1
    assert metrics.store_up._value.get() == 0
    assert metrics.store_unavailable._value.get() == metrics.publish_failures._value.get() == 1
    bucket.away = False
    trainer.run()
    trainer.close()
    assert metrics.store_up._value.get() == 1
    assert world.store.versions("tiny") == [1, trainer.progress.committed.version]
    assert world.store.manifest("tiny", trainer.progress.committed.version).events_trained == 96


@pytest.mark.usefixtures("short_pauses")
def test_a_start_waits_for_the_store(world: World, bucket: Bucket) -> None:
    world.send(*map(click, range(24)))
    bucket.away = True

    def come_back() -> None:
        while bucket.asked < 3:
            time.sleep(0.01)
        assert world.metrics.store_up._value.get() == 0
        bucket.away = False

    thread = threading.Thread(target=come_back, daemon=True)
    thread.start()
    trainer = world.trainer()
    thread.join()
    trainer.run()
    trainer.close()
    assert world.metrics.store_up._value.get() == 1
    assert world.metrics.store_unavailable._value.get() >= 3
    assert world.store.versions("tiny") == [1, 2]


@pytest.mark.usefixtures("short_pauses")
def test_a_start_that_waits_can_be_stopped(world: World, bucket: Bucket) -> None:
    bucket.away = True
    world.patience.stop()
    with pytest.raises(Stopped, match="bucket can't be reached"):
        world.trainer()


def test_the_end_does_not_wait_and_leaves_the_release_to_the_next_start(
    world: World, bucket: Bucket, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_watch, "_FIRST_PAUSE_SECONDS", 1000.0)
    world.send(*map(click, range(48)))
    trainer = world.trainer()
    bucket.away = True
    trainer.run()
    trainer.close()
    assert bucket.asked == 2, "one within training, one at its end in spite of the pause"
    bucket.away = False
    assert world.store.versions("tiny") == [1]
    run()
    assert world.store.manifest("tiny", world.store.versions("tiny")[-1]).events_trained == 48


def test_a_store_that_goes_while_a_free_number_is_looked_for_is_waited_out(world: World, bucket: Bucket) -> None:
    trainer = world.trainer()

    def write() -> int:
        bucket.away = True
        raise VersionTaken("version 1 is not above 1")

    assert trainer.progress.committed is not None
    assert trainer._publishing.settle(trainer.progress.committed, write) is None
    assert trainer.metrics.store_up._value.get() == 0
    trainer.close()


@pytest.mark.usefixtures("short_pauses")
def test_a_release_that_waits_comes_out_without_further_events(
    world: World, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(publishing._log, "error", lambda event, **_: said.append(event), raising=False)
    world.send(*map(click, range(24)))
    trainer = world.trainer(stop_at_end=False)
    bucket.away = True
    while bucket.asked < 3:
        trainer.run_once()
    assert trainer.progress.events_trained == 24
    bucket.away = False
    for _ in range(5):
        trainer.run_once()
    trainer.close()
    assert world.store.versions("tiny") == [1, 2]
    assert said == [], "the watch has said it once"
