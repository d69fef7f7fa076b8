"""The users who are replayed are the data set's own, with their own events in order."""

from __future__ import annotations

import itertools

import numpy as np

from catalogue.datasets.dataset import Rows, build
from catalogue.replay import timeline
from contracts.item import Item
from loadtest.users import endless_users, sequences

USERS = ["ann", "bob", "ann", "ann", "cyd", "bob", "ann", "cyd", "cyd", "new"]
ITEMS = [f"i{number}" for number in range(10)]
ROWS = Rows(USERS, ITEMS, np.arange(10, dtype=np.int64))
LINE = timeline(build("tiny", "click", [Item(item_id=item_id) for item_id in ITEMS], ROWS))


def test_sequences_hold_one_user_s_events_in_order() -> None:
    found = {events[0].user_id: [event.item_id for event in events] for events in sequences(LINE, min_events=3)}
    assert found == {"ann": ["i0", "i2", "i3", "i6"], "cyd": ["i4", "i7", "i8"]}


def test_endless_users_have_a_past() -> None:
    drawn = list(itertools.islice(endless_users(LINE, seed=1), 500))
    assert set(drawn) == {"ann", "bob", "cyd"}
    assert drawn.count("ann") > drawn.count("cyd")  # as often as they were active: 4 of 8 events against 2
