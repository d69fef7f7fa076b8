"""Ranking metrics over whole catalogues, in numpy: expected under ties, seen items masked, intervals by bootstrap.

A scorer that gives many items one score has not ranked them, so a metric is its mean over all orders of the tied
items. Counting ties as wins gave a 7-day popularity an NDCG@10 of 0.089 where the truth is 0.005. With one relevant
item the mean has a closed form: if `above` items beat the target and `tied` items (target included) share its score,
the rank is uniform over above+1 … above+tied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class TiedRanks(NamedTuple):
    """Where each target stands: 1-based ranks are uniform over `above + 1 … above + tied`.

    Attributes:
        above: `[E]` items with a higher score. tied: `[E]` items with the target's score, itself included; 0 when the
        target could not be recommended (seen, or not born yet), which is a miss.
    """

    above: Ints
    tied: Ints


def tied_ranks(scores: NDArray[np.floating], rows: Ints, targets: Ints, masked: Sequence[Sequence[int]]) -> TiedRanks:
    """Rank each target among the items that may be recommended.

    Args:
        scores: `[B, num_items]`, higher is better; -inf marks an item that can't be recommended.
        rows: `[E]` row of each target. targets: `[E]` item index, or -1 for an item that is not in the catalogue.
        masked: B lists of item indices that are taken out (what the user has seen).

    Raises:
        ValueError: scores that are NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN; a ranking of them means nothing")
    open_scores = np.array(scores)
    for row, items in enumerate(masked):
        open_scores[row, items] = -np.inf
    known = targets >= 0
    own = np.where(known, open_scores[rows, targets], -np.inf)
    above = np.empty(len(rows), np.int64)
    tied = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), 1024):
        part = slice(start, start + 1024)
        field, target = open_scores[rows[part]], own[part, None]
        above[part] = (field > target).sum(axis=1)
        tied[part] = (field == target).sum(axis=1)
    return TiedRanks(above, np.where(np.isneginf(own), 0, tied))


def _expected(ranks: TiedRanks, gains: Floats) -> Floats:
    """Mean of `gains[rank - 1]` over the uniform ranks; ranks past the end gain nothing."""
    total = np.concatenate([[0.0], np.cumsum(gains)])
    low = np.minimum(ranks.above, len(gains))
    high = np.minimum(ranks.above + ranks.tied, len(gains))
    return (total[high] - total[low]) / np.maximum(ranks.tied, 1)


def ndcg(ranks: TiedRanks, k: int = 10) -> Floats:
    """`[E]` expected NDCG@k with one relevant item: 1 / log2(rank + 1) within k (Järvelin & Kekäläinen 2002)."""
    return _expected(ranks, 1.0 / np.log2(np.arange(2, k + 2)))


def recall(ranks: TiedRanks, k: int = 10) -> Floats:
    """`[E]` expected Recall@k with one relevant item: the chance that it stands within the first k."""
    return _expected(ranks, np.ones(k))


def reciprocal_rank(ranks: TiedRanks) -> Floats:
    """`[E]` expected 1 / rank, over the whole catalogue; its mean is the MRR."""
    longest = int((ranks.above + ranks.tied).max(initial=1))
    return _expected(ranks, 1.0 / np.arange(1, longest + 1))


def coverage(scores: NDArray[np.floating], masked: Sequence[Sequence[int]], k: int = 10) -> float:
    """Share of the catalogue that stands in at least one row's first k, ties by item order."""
    open_scores = np.array(scores)
    for row, items in enumerate(masked):
        open_scores[row, items] = -np.inf
    best = np.argsort(-open_scores, axis=1, kind="stable")[:, :k]
    return len(np.unique(best)) / open_scores.shape[1]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(difference: Floats, users: NDArray[np.generic], resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean paired difference per event, with a 95 % interval that resamples users.

    Users, not events, are independent: five users hold a third of some test sets. Each resample draws as many users
    as there are and takes the mean over all their events (percentile bootstrap, Efron 1979).

    Args:
        difference: `[E]` metric of A minus metric of B on the same event. To bootstrap over users × seeds, stack the
            seeds' differences and give each (user, seed) pair its own label in `users`.
        users: `[E]` whose event it is.
    """
    _, inverse = np.unique(users, return_inverse=True)
    sums = np.bincount(inverse, weights=difference)
    counts = np.bincount(inverse).astype(np.float64)
    weights = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)
    means = (weights @ sums) / (weights @ counts)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))
