"""An owner whose release store can't be reached."""

from __future__ import annotations

import pytest

from online_trainer.exchange import serve
from releases import store_watch
from tests.unit.online_trainer.exchange.conftest import Group, click
from tests.unit.online_trainer.exchange.test_failures import EVENTS, everything, trained, until
from tests.unit.online_trainer.test_store_away import Bucket


@pytest.mark.usefixtures("short_pauses")
def test_a_group_trains_on_without_its_store(group: Group) -> None:
    bucket = Bucket(group.store)
    group.send(*(click(n) for n in range(EVENTS)))
    owner = group.owner(publish_events=20, stop_at_end=False)
    bucket.away = True
    _, thread, patience = group.worker("a")
    until(lambda: len(trained(group)) == EVENTS, "everything")
    until(lambda: bucket.asked >= 2, "two tries")
    assert group.process is not None
    assert group.process.releaser.published == 0
    assert group.metric("slipstream_trainer_store_up") == 0
    bucket.away = False
    until(lambda: group.process.releaser.published > 0, "a release")  # type: ignore[union-attr]
    assert group.metric("slipstream_trainer_store_up") == 1
    patience.stop()
    thread.finish()
    group.owner_patience.stop()
    owner.finish()
    assert trained(group) == everything(EVENTS)
    assert group.store.manifest("tiny", group.store.versions("tiny")[-1]).events_trained == EVENTS


def test_an_owner_ends_without_its_store_and_the_next_one_publishes(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One more try at its end, whatever the pause, and no longer.
    monkeypatch.setattr(store_watch, "_FIRST_PAUSE_SECONDS", 1000.0)
    monkeypatch.setattr(serve, "_LAST_RELEASE_SECONDS", 1000.0)
    bucket = Bucket(group.store)
    group.send(*(click(n) for n in range(EVENTS)))
    owner = group.owner(publish_events=20)
    bucket.away = True
    _, thread, _ = group.worker("a")
    thread.finish()
    owner.finish()
    bucket.away = False
    assert group.store.versions("tiny") == []
    group.address = "tcp://127.0.0.1:0"
    group.owner(publish_events=20).finish()
    assert trained(group) == everything()
    assert group.store.manifest("tiny", group.store.versions("tiny")[-1]).events_trained == EVENTS
