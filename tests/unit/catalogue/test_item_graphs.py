"""The co-occurrence graph and personal frequency, against recomputations from the list of events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue.cooccurrence import CooccurrenceGraph
from catalogue.frequency import PersonalFrequency
from catalogue.heuristic import SECONDS_PER_DAY
from catalogue.popularity import Popularity

NUM_ITEMS = 5
EVENTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, NUM_ITEMS - 1)), max_size=40)
HISTORY = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=6)


def pair_counts(events, window, symmetric):
    """`[I, I]`: how often the column's item came within `window` events of its user after the row's."""
    pairs = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for position, (user, item) in enumerate(events):
        earlier = [other for owner, other in events[:position] if owner == user][-window:]
        for other in earlier:
            if other != item:
                pairs[other, item] += 1
                pairs[item, other] += symmetric
    return pairs


@given(EVENTS, HISTORY, st.integers(1, 4), st.integers(1, 4), st.booleans(), st.sampled_from([0.0, 0.5]))
def test_the_graph_scores_as_its_formula_says(events, history, window, last, symmetric, damping):
    graph = CooccurrenceGraph(
        NUM_ITEMS, window=window, last=last, decay=0.7, damping=damping, symmetric=symmetric, backfill=0.01
    )
    for user, item in events:
        graph.observe(user, item, 0.0)
    counts = np.bincount([item for _, item in events], minlength=NUM_ITEMS) if events else np.zeros(NUM_ITEMS)
    pairs = pair_counts(events, window, symmetric)
    expected = np.zeros(NUM_ITEMS)
    for age, item in enumerate(history[::-1][:last]):
        expected += 0.7**age * pairs[item] / max(counts[item], 1)
    expected = expected / np.maximum(counts, 1) ** damping + 0.01 * counts / max(len(events), 1)
    np.testing.assert_allclose(graph.score(0, np.array(history, np.int32), 0.0), expected, rtol=1e-12)


def test_the_graph_goes_on_learning_after_it_was_asked():
    graph = CooccurrenceGraph(3, window=2, last=1, backfill=0)
    graph.observe(0, 0, 0.0)
    graph.observe(0, 1, 0.0)
    assert graph.score(0, [0], 0.0).tolist() == [0, 1, 0]
    graph.observe(1, 0, 0.0)
    graph.observe(1, 2, 0.0)
    assert graph.score(0, [0], 0.0).tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize("argument", ["window", "last", "num_items"])
def test_the_graph_refuses_nothing_to_look_at(argument):
    with pytest.raises(ValueError, match=f"{argument} must be above 0"):
        CooccurrenceGraph(**{"num_items": 3, argument: 0})


@given(EVENTS, st.integers(0, 2), st.sampled_from([None, 3.0]))
def test_personal_frequency_adds_own_shares_to_popular_ones(events, user, half_life):
    frequency = PersonalFrequency(
        Popularity.all_time(map(str, range(NUM_ITEMS))), popularity_weight=0.25, half_life_days=half_life
    )
    for day, (owner, item) in enumerate(events):
        frequency.observe(owner, item, day * SECONDS_PER_DAY)
    own, everybody = np.zeros(NUM_ITEMS), np.zeros(NUM_ITEMS)
    for day, (owner, item) in enumerate(events):
        everybody[item] += 1
        own[item] += (owner == user) * (1 if half_life is None else 2 ** ((day - len(events)) / half_life))
    expected = own / (own.sum() or 1) + 0.25 * everybody / (everybody.sum() or 1)
    np.testing.assert_allclose(frequency.score(user, [], len(events) * SECONDS_PER_DAY), expected, rtol=1e-9)


def test_a_user_away_for_ages_keeps_an_order():
    frequency = PersonalFrequency(Popularity.all_time("ab"), popularity_weight=0, half_life_days=1)
    frequency.observe(0, 0, 0.0)
    frequency.observe(0, 1, SECONDS_PER_DAY)
    np.testing.assert_allclose(frequency.score(0, [], 1e6 * SECONDS_PER_DAY), [1 / 3, 2 / 3])
