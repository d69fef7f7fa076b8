"""The replay: in time order, blocks together and whole, and no trace of the order in which a file lists events."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue.datasets import Dataset
from catalogue.replay import Timeline, split, timeline

ROW = st.tuples(st.sampled_from("12345"), st.sampled_from(["1", "2", "10", "x"]), st.integers(0, 6))


def events(line: Timeline) -> list[tuple[str, str, float]]:
    return [(event.user_id, event.item_id, event.timestamp) for event in line]


@given(rows=st.lists(ROW, min_size=1, max_size=40), data=st.data(), seed=st.integers(0, 9))
def test_the_order_of_a_files_rows_leaves_no_trace(make_dataset, rows, data, seed):
    permuted = data.draw(st.permutations(rows))
    assert list(timeline(make_dataset(rows), seed)) == list(timeline(make_dataset(permuted), seed))


@given(rows=st.lists(ROW, min_size=1, max_size=40), seed=st.integers(0, 9))
def test_a_replay_is_every_event_in_time_order_with_blocks_together(make_dataset, rows, seed):
    line = timeline(make_dataset(rows), seed)
    replayed = events(line)
    assert sorted(replayed) == sorted(rows)
    assert [time for _, _, time in replayed] == sorted(time for _, _, time in rows)
    blocks = [(user, time) for user, _, time in replayed]
    changes = 1 + sum(before != after for before, after in pairwise(blocks))
    assert changes == len(set(blocks)) == len(set(line.block.tolist()))


def test_a_seed_gives_one_order_and_another_seed_another(crowded):
    assert (timeline(crowded, 1).order == timeline(crowded, 1).order).all()
    assert (timeline(crowded, 1).order != timeline(crowded, 2).order).any()


def test_item_ids_do_not_rise_within_blocks_nor_user_ids_within_a_timestamp(crowded):
    line = timeline(crowded, 3)
    inside = np.diff(line.block) == 0
    item_steps = np.sign(np.diff(line.item))[inside]
    between = (np.diff(line.block) != 0) & (np.diff(line.timestamp) == 0)
    user_steps = np.sign(np.diff(line.user))[between]
    # In canonical order both means are about 1; a fair coin's lie within 4 standard errors of 0.
    for steps in (item_steps, user_steps):
        assert abs(steps.mean()) < 4 / np.sqrt(len(steps))


def test_seed_42_draws_this_order_on_every_machine_and_under_every_numpy(make_dataset):
    line = timeline(make_dataset([("a", str(item), 5) for item in range(8)] + [("b", "3", 5)]), 42)
    assert [event.item_id for event in line] == list("326714503")


def test_an_events_id_is_unique_and_the_same_under_every_seed_and_slice(crowded):
    def by_id(line: Timeline) -> dict[str, tuple[str, str, float]]:
        return {event.event_id: (event.user_id, event.item_id, event.timestamp) for event in line}

    first, second = timeline(crowded, 1), timeline(crowded, 2)
    assert len(by_id(first)) == len(crowded)
    assert by_id(first) == by_id(second)
    assert list(first[500:510]) == list(first)[500:510]
    assert first[500].event_id == first[500:510][0].event_id == first[500 - len(first)].event_id
    assert first[0].event_id.startswith("small-000")


def test_columns_and_events_agree(crowded):
    line = timeline(crowded, 1)
    users, items = line.user.tolist(), line.item.tolist()
    for index, event in enumerate(line):
        assert event.user_id == crowded.users[users[index]]
        assert event.item_id == crowded.items[items[index]].item_id
        assert event.event_type == "click"
        assert event.value is None


@given(fraction=st.floats(0, 1), seed=st.integers(0, 3))
def test_a_split_cuts_between_timestamps_and_loses_nothing(crowded, fraction, seed):
    line = timeline(crowded, seed)
    before, after = split(line, fraction)
    assert np.concatenate([before.order, after.order]).tolist() == line.order.tolist()
    if len(before) and len(after):
        assert before.timestamp[-1] < after.timestamp[0]
        assert not set(before.block.tolist()) & set(after.block.tolist())
    largest_moment = np.bincount(crowded.timestamp).max()
    assert fraction * len(line) - largest_moment <= len(before) <= fraction * len(line)


def test_a_split_at_two_fractions_gives_three_parts(crowded):
    train, validation, test = split(timeline(crowded), 0.7, 0.8)
    assert len(train) + len(validation) + len(test) == len(crowded)
    assert train.timestamp[-1] < validation.timestamp[0] <= validation.timestamp[-1] < test.timestamp[0]


@pytest.mark.parametrize("fractions", [(-0.1,), (1.1,), (0.8, 0.7)])
def test_a_split_refuses_fractions_that_are_none(crowded, fractions):
    with pytest.raises(ValueError, match="must rise within 0 and 1"):
        split(timeline(crowded), *fractions)


def test_the_published_order_is_kept_where_there_is_one(make_dataset, crowded):
    rows = [("u", item, 9) for item in "edcba"]
    ordered = make_dataset(rows, sequence=[0, 1, 2, 3, 4])
    for seed in range(3):
        assert [event.item_id for event in timeline(ordered, seed, published_order=True)] == list("edcba")
    with pytest.raises(ValueError, match="no published order"):
        timeline(crowded, published_order=True)


def test_a_timeline_runs_forwards_only(crowded: Dataset):
    with pytest.raises(ValueError, match="step 1"):
        timeline(crowded)[::-1]
    with pytest.raises(IndexError):
        timeline(crowded)[len(crowded)]
