"""Popularity, incremental, against a recomputation from all events at every question."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue.heuristic import SECONDS_PER_DAY
from catalogue.popularity import Popularity

ITEMS = ["a", "b", "c", "d"]
# Not in time order: partitions are read side by side. Whole days make windows end exactly on events.
EVENTS = st.lists(
    st.tuples(st.sampled_from(ITEMS), st.integers(0, 60).map(lambda day: day * SECONDS_PER_DAY)), max_size=40
)
AHEAD = st.integers(0, 20).map(lambda day: day * SECONDS_PER_DAY)


def recomputed(events, now, weight):
    return [sum(weight((now - time) / SECONDS_PER_DAY) for item, time in events if item == asked) for asked in ITEMS]


def fed(popularity, events):
    """`popularity` after `events`, asked now and then so that its state moves as in use."""
    for number, (item, time) in enumerate(events):
        popularity.add(item, time)
        if number % 3 == 0:
            popularity.scores()
    return popularity


@given(events=EVENTS, ahead=AHEAD)
def test_all_time_counts_every_event(events, ahead):
    popularity = fed(Popularity.all_time(ITEMS), events)
    assert popularity.scores(ahead).tolist() == recomputed(events, 0, lambda age: 1)


@given(events=EVENTS, ahead=AHEAD, days=st.sampled_from([1, 7, 7.5, 30]))
def test_last_days_counts_what_is_younger_than_the_window(events, ahead, days):
    popularity = fed(Popularity.last_days(days, ITEMS), events)
    now = max((time for _, time in events), default=0) + ahead
    assert popularity.scores(now).tolist() == recomputed(events, now, lambda age: age < days)


@given(events=EVENTS, ahead=AHEAD, half_life=st.sampled_from([0.1, 1, 30]))
def test_decayed_halves_every_half_life(events, ahead, half_life):
    popularity = fed(Popularity.decayed(half_life, ITEMS), events)
    now = max((time for _, time in events), default=0) + ahead
    expected = recomputed(events, now, lambda age: 2 ** (-age / half_life))
    np.testing.assert_allclose(popularity.scores(now), expected, rtol=1e-9, atol=1e-250)


def test_a_question_about_the_past_is_answered_as_of_the_newest_event():
    popularity = Popularity.last_days(1, ITEMS)
    popularity.add("a", 0)
    popularity.add("b", 10 * SECONDS_PER_DAY)
    assert popularity.scores(now=0).tolist() == [0, 1, 0, 0]


def test_top_orders_by_count_and_leaves_out_what_is_excluded():
    popularity = Popularity.all_time(ITEMS)
    for item in "ccbbd":
        popularity.add(item, 1)
    assert [(item.item_id, item.score) for item in popularity.top(3)] == [("b", 2), ("c", 2), ("d", 1)]
    assert [item.item_id for item in popularity.top(3, exclude=["b", "unknown"])] == ["c", "d", "a"]
    assert [item.item_id for item in popularity.top(9)] == ["b", "c", "d", "a"]
    assert popularity.top(2, exclude=ITEMS) == []
    assert popularity.scores().tolist() == [0, 2, 2, 1], "top must not disturb the counts"


@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=30), k=st.integers(1, 30), data=st.data())
def test_top_equals_a_stable_sort(counts, k, data):
    ids = [str(number) for number in range(len(counts))]
    excluded = data.draw(st.sets(st.sampled_from(ids)))
    popularity = Popularity.all_time(ids)
    for item, count in zip(ids, counts, strict=True):
        for _ in range(count):
            popularity.add(item, 0)
    expected = sorted((item for item in ids if item not in excluded), key=lambda item: -counts[int(item)])[:k]
    assert [item.item_id for item in popularity.top(k, excluded)] == expected


def test_items_that_come_later_join_at_the_end():
    popularity = Popularity.decayed(1, ["a"])
    for number in range(100):
        popularity.add(f"new-{number}", 5)
    popularity.add_item("never-taken")
    assert len(popularity) == 102
    assert popularity.scores(5).tolist() == [0] + [1] * 100 + [0]
    assert popularity.item_ids[:2] == ["a", "new-0"]


@pytest.mark.parametrize("make", [Popularity.last_days, Popularity.decayed])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_window_must_be_positive(make, value):
    with pytest.raises(ValueError, match="must be above 0"):
        make(value)


def test_bad_questions_are_refused():
    popularity = Popularity.all_time(ITEMS)
    with pytest.raises(ValueError, match="k must be above 0"):
        popularity.top(0)
    with pytest.raises(IndexError, match="add_item"):
        popularity.observe(0, 4, 0.0)
    with pytest.raises(IndexError, match="add_item"):
        popularity.observe(0, -1, 0.0)
