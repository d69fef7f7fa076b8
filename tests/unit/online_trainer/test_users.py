"""Histories and dedupe windows."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_trainer.ledger import LedgerRow, Untrained
from online_trainer.users import DedupeWindow, Histories, Users
from recommender.examples import Interaction

arrivals = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcdefgh")), max_size=60)


@given(arrivals, st.integers(1, 5))
def test_a_window_holds_the_last_ids_of_each_partition(ids: list[tuple[int, str]], capacity: int) -> None:
    window = DedupeWindow(capacity)
    model: dict[int, deque[str]] = {number: deque(maxlen=capacity) for number in range(3)}
    for partition, event_id in ids:
        known = any(event_id in part for part in model.values())
        assert (event_id in window) == known
        if not known:
            window.add(partition, event_id)
            model[partition].append(event_id)


@given(arrivals, st.integers(1, 5), st.integers(0, 60))
def test_what_one_window_forgets_another_may_still_hold(ids: list[tuple[int, str]], capacity: int, until: int) -> None:
    window = DedupeWindow(capacity)
    for partition, event_id in ids[:until]:
        known = event_id in window
        assert window.add_new(partition, event_id) is not known
    # What a worker is told of others' partitions comes as whole windows, which may overlap.
    told = [event_id for _, event_id in ids[until:]]
    window.replace(3, told)
    window.replace(0, told[:2])
    held = {event_id for number in range(4) for event_id in window.of(number)}
    assert held == {event_id for event_id in "abcdefgh" if event_id in window}
    assert window.of(3) == list(dict.fromkeys(told))
    window.replace(3, [])
    assert {event_id for event_id in "abcdefgh" if event_id in window} == {e for n in range(3) for e in window.of(n)}


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        DedupeWindow(0)


def test_a_history_keeps_the_last_events_oldest_first() -> None:
    histories = Histories(2)
    assert list(histories.of("new")) == []
    for number in range(3):
        histories.add("u", Interaction(f"i{number}", float(number)))
    assert list(histories.of("u")) == [Interaction("i1", 1.0), Interaction("i2", 2.0)]


def test_duplicates_and_unreadable_records_leave_no_trace() -> None:
    users = Users(10, 10)
    first = LedgerRow(
        partition=0, offset=0, batch=1, trained=True, event_id="e", user_id="u", item_id="i", timestamp=1.0
    )
    again = LedgerRow(
        partition=1,
        offset=0,
        batch=1,
        trained=False,
        reason=Untrained.DUPLICATE,
        event_id="e",
        user_id="v",
        item_id="i",
        timestamp=2.0,
    )
    torn = LedgerRow(partition=1, offset=1, batch=1, trained=False, reason=Untrained.UNREADABLE)
    users.take_all([first, again, torn])
    assert "e" in users.seen
    assert list(users.histories.of("u")) == [Interaction("i", 1.0)]
    assert list(users.histories.of("v")) == []
