"""The batch that is prepared while a push is on its way: it hides the exchange, changes no bit, and takes nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from online_trainer.exchange.ahead import Ahead
from online_trainer.exchange.messages import News
from online_trainer.exchange.sequencer import GroupSettings
from online_trainer.exchange.worker import Worker
from online_trainer.ledger import Untrained
from tests.unit.online_trainer.exchange.conftest import Group, click
from tests.unit.online_trainer.exchange.test_failures import _delay, everything, trained, until

EVENTS = 200
SLOW = 0.01
"""Seconds an event: a worker that takes the tenfold of the others."""
TIGHT = GroupSettings(batch_events=8, staleness_bound=2, balance_seconds=0)
"""A fast worker has to wait for a slow one after every push but one."""


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each batch that was prepared and is taken: whether what was foreseen came true."""
    found: list[bool] = []
    take = Ahead.take

    def spy(self: Ahead, arrivals: Any) -> Any:
        prepared = take(self, arrivals)
        found.append(prepared is not None)
        return prepared

    monkeypatch.setattr(Ahead, "take", spy)
    return found


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Why a batch that was ready was dropped."""
    found: Counter[str] = Counter()

    def ready(worker: Worker) -> bool:
        return worker._ahead is not None and worker._ahead.ready

    forget, follow, close = Worker._forget, Worker._follow, Worker.close

    def spy_forget(self: Worker) -> None:
        found["undone"] += ready(self)
        forget(self)

    def spy_follow(self: Worker, news: News) -> None:
        before = ready(self)
        follow(self, news)
        found["moved"] += before and not ready(self)

    def spy_close(self: Worker) -> None:
        found["stopped"] += ready(self)
        close(self)

    monkeypatch.setattr(Worker, "_forget", spy_forget)
    monkeypatch.setattr(Worker, "_follow", spy_follow)
    monkeypatch.setattr(Worker, "close", spy_close)
    return found


def seconds(group: Group, kind: str) -> float:
    return group.metric("slipstream_exchange_seconds_total", kind=kind)


def test_a_fast_worker_prepares_its_next_batch_while_it_waits_for_a_slow_one(group: Group, used: list[bool]) -> None:
    group.send(*(click(n) for n in range(EVENTS)))
    owner = group.owner(group=TIGHT)
    slow, thread, _ = group.worker("slow")
    _delay(slow, SLOW)
    _, other, _ = group.worker("fast", 1)
    thread.finish()
    other.finish()
    owner.finish()
    assert trained(group) == everything(EVENTS)
    assert len(used) > 10 and all(used)
    assert seconds(group, "hidden") > 0
    # A slow batch lasts 80 ms, of which preparing takes a few.
    assert seconds(group, "exposed") > seconds(group, "hidden")


def test_without_anything_to_prepare_no_exchange_time_is_called_hidden(group: Group, used: list[bool]) -> None:
    owner = group.owner(stop_at_end=False)
    _, thread, patience = group.worker("a")
    assert group.process is not None
    offsets = group.process.owner.sequencer.offsets
    for number in range(3):
        group.send(click(number))
        until(lambda done=number: sum(offsets.values()) > done, "it is trained")  # type: ignore[misc]
    patience.stop()
    thread.finish()
    group.owner_patience.stop()
    owner.finish()
    assert trained(group) == everything(3)
    assert not used and seconds(group, "hidden") == 0 < seconds(group, "exposed")


def test_a_prepared_batch_changes_no_bit(tmp_path: Path, used: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for prepares in (True, False):
        if not prepares:
            monkeypatch.setattr(Worker, "_get_ahead", lambda worker: None)
        group = Group(tmp_path / str(prepares))
        # Some come twice, next to one another and further away.
        group.send(*(click(n - n % 5 % 2) for n in range(EVENTS)), *(click(n) for n in range(0, EVENTS, 9)))
        owner = group.owner()
        taken = len(used)
        _, thread, _ = group.worker("a")
        thread.finish()
        owner.finish()
        assert bool(len(used) - taken) is prepares
        assert group.process is not None
        found.append((group.process.owner.replica.state(), group.rows()))
    (first, rows), (second, other_rows) = found
    assert rows == other_rows and any(row.reason is Untrained.DUPLICATE for row in rows)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_undone_push_drops_the_batch_that_was_prepared_behind_it(group: Group, dropped: Counter[str]) -> None:
    # Each event twice, under users of different partitions: what both workers push at a time is undone at one.
    for number in range(EVENTS):
        group.send(click(number), click(number, user_id=f"v{number % 23}"))
    owner = group.owner(group=TIGHT)
    slow, thread, _ = group.worker("a")
    _delay(slow, SLOW)
    _, other, _ = group.worker("b", 1)
    thread.finish()
    other.finish()
    owner.finish()
    assert dropped["undone"] > 0
    assert trained(group) == everything(EVENTS)
    rows = group.rows()
    assert len({(row.partition, row.offset) for row in rows}) == len(rows) == 2 * EVENTS
    assert Counter(row.reason for row in rows) == {None: EVENTS, Untrained.DUPLICATE: EVENTS}


def test_a_move_and_an_end_drop_the_batch_that_was_prepared(group: Group, dropped: Counter[str]) -> None:
    group.send(*(click(n) for n in range(2 * EVENTS)))
    owner = group.owner(group=dataclasses.replace(TIGHT, staleness_bound=3))
    slow, thread, _ = group.worker("slow")
    _delay(slow, SLOW)
    fast, other, patience = group.worker("fast", 1)
    until(lambda: fast._ahead is not None and fast._ahead.ready, "a batch is prepared")
    _, third, _ = group.worker("third", 2)
    until(lambda: dropped["moved"] > 0, "the third gets a partition of the fast one")
    until(lambda: fast._ahead is not None and fast._ahead.ready, "a batch is prepared again")
    patience.stop()
    other.finish()
    assert dropped["stopped"] > 0
    for one in (thread, third):
        one.finish()
    owner.finish()
    assert trained(group) == everything(2 * EVENTS)
    assert len({(row.partition, row.offset) for row in group.rows()}) == len(group.rows()) == 2 * EVENTS


def test_what_was_foreseen_wrongly_is_not_used(group: Group, used: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """The dedupe window has the last word: an id that it learns of after the preparation is a duplicate."""
    get_ahead = Worker._get_ahead

    def learn_late(self: Worker) -> bool | None:
        got_on = get_ahead(self)
        if got_on and self._ahead is not None and self._ahead.ready:
            event = self._ahead._arrivals[0].event
            assert event is not None
            self._users.seen.add(-1, event.event_id)
        return got_on

    monkeypatch.setattr(Worker, "_get_ahead", learn_late)
    group.send(*(click(n) for n in range(EVENTS)))
    owner = group.owner()
    _, thread, _ = group.worker("a")
    thread.finish()
    owner.finish()
    assert used and not any(used)
    rows = group.rows()
    assert len({(row.partition, row.offset) for row in rows}) == len(rows) == EVENTS
    duplicates = [row for row in rows if row.reason is Untrained.DUPLICATE]
    assert len(duplicates) == len(used) and trained(group).total() == EVENTS - len(used)
