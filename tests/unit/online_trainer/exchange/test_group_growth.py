"""New items in a group: one order tells every replica, and the log of orders repeats it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from contracts import topics, wire
from contracts.item import Item
from contracts.release import AddedItems
from online_trainer.exchange import growth
from online_trainer.exchange.growth import BackgroundFeed
from online_trainer.exchange.messages import AddedRows, Order, Rule
from online_trainer.exchange.replica import Replica
from online_trainer.item_feed import ItemFeed
from streams.event_log import LogUnavailable
from tests.unit.online_trainer.exchange.conftest import NUM_ITEMS, Group, click

FOLDER = [f"i{n}" for n in range(NUM_ITEMS)]


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr("online_trainer.item_feed._LOOK_SECONDS", 0.0)


def post(group: Group, *item_ids: str) -> None:
    for item_id in item_ids:
        item = Item(item_id=item_id, title="Part 1")
        group.log.produce(topics.ITEMS, item_id.encode(), wire.encode(item)).result()


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_rows_are_absolute_and_each_shard_takes_its_part() -> None:
    values = torch.arange(5000, dtype=torch.float32)
    added = AddedRows(item_ids=("x",), rows={3000: values.numpy().tobytes(), 10: values[:3].numpy().tobytes()})
    order = Order(index=1, pushes=[], added=added)
    whole = Replica(torch.full((9000,), -1.0), Rule(average=0.9))
    shards = [Replica(torch.full((size,), -1.0), Rule(average=0.9), start) for start, size in ((0, 4096), (4096, 4904))]
    for replica in (whole, *shards):
        replica.apply(order, [])
    for kind in ("replica.weights", "replica.average"):
        expected = torch.full((9000,), -1.0)
        expected[3000:8000], expected[10:13] = values, values[:3]
        assert torch.equal(whole.state()[kind], expected)
        assert torch.equal(torch.cat([shard.state()[kind] for shard in shards]), expected)


def test_workers_train_an_item_that_was_born_meanwhile_and_the_release_names_it(group: Group) -> None:
    group.send(*map(click, range(40)), click(40, item_id="born"))
    owner = group.owner(stop_at_end=False)
    first, first_thread, stop_first = group.worker("a")
    second, second_thread, stop_second = group.worker("b", 1)
    assert group.process is not None
    progress = group.process.owner.progress
    until(lambda: sum(progress.offsets.values()) == 41, "the first events")
    post(group, "born", "alien")
    until(lambda: progress.added_items == ("born", "alien"), "the items' order")
    for worker in (first, second):
        until(lambda worker=worker: worker.exchange.added_items == ("born", "alien"), "the items at a worker")
    late, late_thread, stop_late = group.worker("late", 2)
    group.send(*(click(number, item_id="born") for number in range(41, 61)))
    until(lambda: sum(progress.offsets.values()) == 61, "the newborn's events")
    for patience in (stop_first, stop_second, stop_late, group.owner_patience):
        patience.stop()
    for thread in (first_thread, second_thread, late_thread, owner):
        thread.finish()
    untrained = {row.event_id for row in group.rows() if not row.trained}
    assert untrained == {"e40"}, "what came before the birth stays untrained, what came after it is trained"
    manifest = group.store.manifest("tiny", max(group.store.versions("tiny")))
    assert manifest.added_items == AddedItems.behind(FOLDER, ["born", "alien"])
    for worker in (first, second, late):
        assert worker.learner.recommender.vocabulary.item_ids[NUM_ITEMS:] == ("born", "alien")


def test_items_that_are_there_at_the_start_come_before_every_event(group: Group) -> None:
    post(group, *(f"n{number}" for number in range(40)))
    group.send(*(click(number, item_id=f"n{number % 40}") for number in range(60)))
    owner = group.owner()
    _, thread, _ = group.worker("a")
    thread.finish()
    owner.finish()
    assert len(group.rows()) == 60
    assert all(row.trained for row in group.rows())


@pytest.mark.parametrize("committed", [True, False])
def test_an_owner_that_was_killed_adds_them_again_from_the_log_of_orders(group: Group, committed: bool) -> None:
    owner = group.owner(stop_at_end=False, publish_events=1 if committed else 0)
    worker, thread, stop = group.worker("a")
    assert group.process is not None
    calm = group.process
    group.send(*map(click, range(16)))
    until(lambda: calm.owner.progress.events_trained == 16, "events")
    post(group, "born")
    until(lambda: worker.exchange.added_items == ("born",), "the birth at the worker")
    group.send(*(click(number, item_id="born") for number in range(16, 24)))
    until(lambda: calm.owner.progress.events_trained == 24, "the newborn's events")
    if committed:
        until(lambda: calm.releaser.state.events_trained == 24, "a commit of everything")
    # The crash: what the owner holds in memory is lost.
    shutil.copytree(group.folder / "state", group.folder / "copy")
    stop.stop()
    thread.finish()
    group.owner_patience.stop()
    owner.finish()
    group.address = "tcp://127.0.0.1:0"
    again = group.owner(stop_at_end=False, state=group.folder / "copy")
    assert group.process is not None
    restored = group.process.owner
    assert restored.progress.added_items == ("born",)
    left, right = calm.owner.replica.state(), restored.replica.state()
    assert all(torch.equal(left[name], right[name]) for name in left)
    group.owner_patience.stop()
    again.finish()


def test_owners_of_shards_add_nothing(group: Group) -> None:
    post(group, "born")
    group.send(*map(click, range(16)), *(click(number, item_id="born") for number in range(16, 20)))
    owner = group.owner(owners=2)
    _, thread, _ = group.worker("a")
    thread.finish()
    owner.finish()
    assert {row.event_id for row in group.rows() if not row.trained} == {"e16", "e17", "e18", "e19"}
    assert group.store.manifest("tiny", max(group.store.versions("tiny"))).added_items is None


def test_a_log_that_is_away_costs_the_followed_feed_nothing_but_time(group: Group) -> None:
    post(group, "a")

    class Flaky(ItemFeed):
        asked = 0

        def look(self) -> bool:
            self.asked += 1
            if 1 < self.asked < 4:
                raise LogUnavailable("away")
            return super().look()

    feed = Flaky(group.log)
    assert feed.look()
    followed = BackgroundFeed(feed)
    assert followed.look()
    assert list(followed.items) == ["a"]
    assert not followed.look()
    post(group, "b")
    until(followed.look, "the item behind the outage")
    assert list(followed.items) == ["a", "b"]
    followed.close()
