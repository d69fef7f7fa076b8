"""Metrics against brute force over every order of tied items, and the bootstrap against known cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommender.ranking import coverage, ndcg, paired_bootstrap, recall, reciprocal_rank, tied_ranks


def brute_force(scores: list[int], target: int, seen: set[int], k: int) -> tuple[float, float, float]:
    """Mean NDCG@k, Recall@k and reciprocal rank over all orders of the open items that respect the scores."""
    open_items = [item for item in range(len(scores)) if item not in seen]
    orders = [
        order
        for order in itertools.permutations(open_items)
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    ranks = [order.index(target) + 1 for order in orders if target in order]
    total = len(orders)
    return (
        sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k) / total,
        sum(rank <= k for rank in ranks) / total,
        sum(1 / rank for rank in ranks) / total,
    )


@given(
    scores=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    seen=st.sets(st.integers(0, 5)),
    target=st.integers(0, 5),
    k=st.integers(1, 7),
)
def test_metrics_are_the_mean_over_all_orders_of_tied_items(
    scores: list[int], seen: set[int], target: int, k: int
) -> None:
    target %= len(scores)
    seen = {item for item in seen if item < len(scores)}
    ranks = tied_ranks(np.array([scores], np.float32), np.array([0]), np.array([target]), [sorted(seen)])
    expected = brute_force(scores, target, seen, k)
    assert (ndcg(ranks, k)[0], recall(ranks, k)[0], reciprocal_rank(ranks)[0]) == pytest.approx(expected)


def test_a_constant_scorer_scores_chance_exactly() -> None:
    num_items = 1682
    targets = np.arange(num_items)
    ranks = tied_ranks(np.zeros((1, num_items)), np.zeros(num_items, np.int64), targets, [[]])
    chance = sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / num_items
    assert ndcg(ranks) == pytest.approx(np.full(num_items, chance))
    assert recall(ranks) == pytest.approx(np.full(num_items, 10 / num_items))


def test_seen_items_are_masked_and_a_seen_or_unborn_target_is_a_miss() -> None:
    scores = np.array([[4.0, 3.0, 2.0, -np.inf]])
    rows, targets = np.zeros(4, np.int64), np.array([2, 0, 3, -1])
    ranks = tied_ranks(scores, rows, targets, [[0, 1]])
    assert ndcg(ranks).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert scores[0, 0] == 4.0, "the caller's scores stay"


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        tied_ranks(np.array([[np.nan, 1.0]]), np.array([0]), np.array([1]), [[]])


def test_coverage_counts_what_stands_in_some_list() -> None:
    scores = np.array([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]])
    assert coverage(scores, [[], [0]], k=2) == pytest.approx(3 / 4)


def test_bootstrap_resamples_users_not_events() -> None:
    """One user with most events and a gain, many without: by events the gain is sure, by users it is not."""
    users = np.array(["heavy"] * 1000 + [f"light-{n}" for n in range(20)])
    difference = np.concatenate([np.full(1000, 0.1), np.full(20, -0.01)])
    interval = paired_bootstrap(difference, users)
    assert interval.mean == pytest.approx(difference.mean())
    assert interval.low == pytest.approx(-0.01)


def test_bootstrap_finds_a_gain_that_all_users_share() -> None:
    generator = np.random.default_rng(3)
    users = np.repeat(np.arange(200), 10)
    interval = paired_bootstrap(generator.normal(0.05, 0.1, 2000), users)
    assert 0 < interval.low < 0.05 < interval.high < 0.06
    # The normal approximation of the same interval, since every user has as many events.
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(2000), rel=0.15)
    assert paired_bootstrap(np.zeros(4), np.arange(4)).high == 0.0
