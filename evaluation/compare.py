"""Ratios and their intervals: a paired bootstrap over users and over seeds.

Users are drawn, and seeds are drawn, each independently of the other; a user's events under all drawn seeds come along.
(Giving every (user, seed) pair its own draw would count one user's five nearly equal results as five witnesses: the
interval came out about half as wide as it is.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evaluation.record import Record
from recommender.ranking import Interval

RESAMPLES = 2000
CHUNK = 100
"""Resamples at once; as floats all 2,000 over Sports' 20,000 users would take 300 MB."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """One scorer's mean over another's, with a 95 % interval.

    Attributes:
        point: ratio of the two means over all events and seeds. low, high: 95 % interval.
    """

    point: float
    low: float
    high: float

    def reaches(self, goal: float) -> bool:
        """Whether the goal counts as reached: the point is there and the interval lies above 1."""
        return self.point >= goal and self.low > 1.0


def mean(records: Sequence[Record], metric: str = "ndcg") -> Interval:
    """The mean of a metric over events and seeds, with its interval."""
    sums, counts = _by_user(records, metric, _users(records))
    tops, bottoms = _resampled(sums, counts)
    low, high = np.quantile(tops / bottoms, [0.025, 0.975])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def ratio(ours: Sequence[Record], baseline: Sequence[Record], metric: str = "ndcg") -> Ratio:
    """Ours over baseline, `records[s]` of both made on the timeline of the same seed.

    Raises:
        ValueError: records that are not of the same events.
    """
    _check_paired(ours, baseline)
    users = _users(ours)
    top, bottom = (_by_user(records, metric, users)[0] for records in (ours, baseline))
    if not bottom.sum():
        return Ratio(np.inf, np.inf, np.inf) if top.sum() else Ratio(np.nan, np.nan, np.nan)
    tops, bottoms = _resampled(top, bottom)
    # A resample without a hit of the baseline says "larger than anything", not "undefined".
    ratios = np.divide(tops, bottoms, out=np.full(len(tops), np.inf), where=bottoms > 0)
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return Ratio(float(top.sum() / bottom.sum()), float(low), float(high))


def _check_paired(ours: Sequence[Record], baseline: Sequence[Record]) -> None:
    if len(ours) != len(baseline):
        raise ValueError(f"{len(ours)} seeds against {len(baseline)}; run both with the same seeds")
    for one, other in zip(ours, baseline, strict=True):
        if not np.array_equal(one.row, other.row):
            raise ValueError("the two runs were asked for other events; evaluate both on the same timelines")


def _users(records: Sequence[Record]) -> NDArray[np.int32]:
    return np.unique(np.concatenate([record.user for record in records]))


def _by_user(records: Sequence[Record], metric: str, users: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Sums and counts, `[U, S]`."""
    sums = np.empty((len(users), len(records)))
    counts = np.empty_like(sums)
    for seed, record in enumerate(records):
        place = np.searchsorted(users, record.user)
        sums[:, seed] = np.bincount(place, weights=getattr(record, metric), minlength=len(users))
        counts[:, seed] = np.bincount(place, minlength=len(users))
    return sums, counts


def _resampled(*tables: Floats) -> list[Floats]:
    """For each table `[U, S]` its total `[R]` under each draw of users and of seeds; the draws are the same for all."""
    totals: list[list[Floats]] = [[] for _ in tables]
    for by_user, by_seed in _draws(*tables[0].shape):
        weights = by_user.astype(np.float64)
        for total, table in zip(totals, tables, strict=True):
            total.append(((weights @ table) * by_seed).sum(axis=1))
    return [np.concatenate(total) for total in totals]


@lru_cache(maxsize=8)
def _draws(users: int, seeds: int) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """How often each user `[CHUNK, U]` and each seed `[CHUNK, S]` is drawn, chunk by chunk.

    Kept, since every metric of every scorer asks for the same ones: of 14,000 users drawing takes 1.15 s, the rest of
    an interval 0.05. Nobody of thousands is drawn 256 times.
    """
    random = np.random.default_rng(0)
    return [
        (
            random.multinomial(users, np.full(users, 1 / users), size=CHUNK).astype(np.uint8),
            random.multinomial(seeds, np.full(seeds, 1 / seeds), size=CHUNK),
        )
        for _ in range(RESAMPLES // CHUNK)
    ]
