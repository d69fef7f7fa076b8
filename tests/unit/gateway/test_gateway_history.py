"""Histories: order by offset, once per id, bounded, whoever brings an event."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contracts.event import Event
from gateway.history import InProcessHistories, RecentIds


def make(event_id: str, item_id: str, user_id: str = "u") -> Event:
    return Event(event_id=event_id, event_type="click", user_id=user_id, item_id=item_id, timestamp=1.0)


def histories(length: int = 3, seen_limit: int = 5, window: int = 100) -> InProcessHistories:
    return InProcessHistories(length, seen_limit, window)


def test_an_unknown_user_has_an_empty_history() -> None:
    assert histories().view("nobody") == ([], [], 0)


def test_the_prompt_is_bounded_and_what_was_seen_is_not_forgotten_with_it() -> None:
    store = histories(length=2)
    store.apply([(make(str(i), item), i) for i, item in enumerate("abca")])
    view = store.view("u")
    assert view.items == ["c", "a"]
    assert sorted(view.seen) == ["a", "b", "c"]
    assert view.length == 4


def test_past_its_limit_the_item_seen_first_is_forgotten() -> None:
    store = histories(seen_limit=2)
    store.apply([(make(str(i), item), i) for i, item in enumerate("abc")])
    assert store.view("u").seen == ["b", "c"]


@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=8))
def test_any_order_of_arrival_and_any_repeat_gives_the_log_s_history(order: list[int], repeats: list[int]) -> None:
    """Requests and the log's reader race: offsets come in any order, and some events come twice."""
    store = histories(length=5, seen_limit=100)
    for offset in [*order, *repeats]:
        store.apply([(make(f"e{offset}", f"i{offset}"), offset)])
    assert store.view("u").items == ["i3", "i4", "i5", "i6", "i7"]
    assert store.view("u").length == 8


def test_apply_tells_which_events_were_new() -> None:
    store = histories()
    first, second = make("1", "a"), make("2", "b")
    assert store.apply([(first, 0)]) == [first]
    assert store.apply([(first, 7), (second, 1)]) == [second]
    assert store.knows("1")
    assert not store.knows("3")


def test_recent_ids_forget_the_oldest() -> None:
    ids = RecentIds(2)
    assert [ids.add(i) for i in ("a", "b", "a", "c")] == [True, True, False, True]
    assert "a" not in ids
    assert "b" in ids
    assert len(ids) == 2
