"""Blocks, births, firsts and leave-one-out, against recomputations event by event."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue.protocol import births, blocks, is_first, leave_one_out
from catalogue.replay import split, timeline

ROW = st.tuples(st.sampled_from("1234"), st.sampled_from("abcde"), st.integers(0, 5))


@given(rows=st.lists(ROW, min_size=1, max_size=40), seed=st.integers(0, 3), fraction=st.sampled_from([0, 0.4, 0.8]))
def test_a_block_has_exactly_its_users_events_before_its_instant(make_dataset, rows, seed, fraction):
    line = timeline(make_dataset(rows), seed)
    start = len(split(line, fraction)[0])
    users, items, times = line.user.tolist(), line.item.tolist(), line.timestamp.tolist()
    asked = []
    for block in blocks(line, start):
        end = block.start + len(block.items)
        assert set(users[block.start : end]) == {block.user}
        assert set(times[block.start : end]) == {block.timestamp}
        before = [
            item
            for user, item, time in zip(users, items, times, strict=True)
            if user == block.user and time < block.timestamp
        ]
        assert block.history.tolist() == before
        assert block.items.tolist() == items[block.start : end]
        asked.extend(range(block.start, end))
    assert asked == list(range(start, len(line)))


def test_blocks_refuse_to_start_within_a_block(make_dataset):
    line = timeline(make_dataset([("u", "a", 1), ("u", "b", 1)]))
    with pytest.raises(ValueError, match="within a block"):
        list(blocks(line, 1))


@given(rows=st.lists(ROW, min_size=1, max_size=40))
def test_births_and_firsts(make_dataset, rows):
    line = timeline(make_dataset(rows))
    items, pairs = line.item.tolist(), list(zip(line.user.tolist(), line.item.tolist(), strict=True))
    assert births(line).tolist() == [items.index(item) for item in range(len(line.dataset.items))]
    assert is_first(line).tolist() == [pair not in pairs[:position] for position, pair in enumerate(pairs)]


def test_an_item_outside_a_part_is_not_born_in_it(make_dataset):
    line = timeline(make_dataset([("u", "a", 1), ("u", "b", 2)]))
    assert births(split(line, 0.5)[0]).tolist() == [0, 1]


def test_leave_one_out_holds_out_each_users_last_two(make_dataset):
    rows = [("1", "a", 1), ("2", "a", 2), ("1", "b", 3), ("2", "c", 4), ("1", "c", 5), ("2", "b", 6), ("3", "a", 7)]
    line = timeline(make_dataset(rows, repeats=False))
    held_out = leave_one_out(line)
    assert [line[position].timestamp for position in held_out.test.tolist()] == [5, 6]
    assert [line[position].timestamp for position in held_out.validation.tolist()] == [3, 4]


def test_leave_one_out_refuses_baskets(make_dataset):
    with pytest.raises(ValueError, match="split it by time"):
        leave_one_out(timeline(make_dataset([("u", "a", 1)], repeats=True)))


def test_leave_one_out_agrees_with_a_walk_over_every_user(crowded, make_dataset):
    rows = [(event.user_id, event.item_id, int(event.timestamp)) for event in timeline(crowded)]
    line = timeline(make_dataset(rows, repeats=False), 5)
    held_out = leave_one_out(line)
    positions = [np.flatnonzero(line.user == user)[-2:].tolist() for user in range(len(line.dataset.users))]
    assert [list(pair) for pair in zip(held_out.validation, held_out.test, strict=True)] == positions
