"""Ratios and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.compare import Ratio, mean, ratio
from evaluation.record import Record


def record(ranks: np.ndarray, users: np.ndarray) -> Record:
    rows = np.arange(len(ranks))
    return Record(rows, users.astype(np.int32), rows, ranks - 1, np.ones_like(ranks), np.zeros(5, np.bool_))


def seeds_of(scale: float, users: np.ndarray, seeds: int) -> list[Record]:
    """Users differ much from one another, seeds hardly."""
    random = np.random.default_rng(1)
    level = random.integers(1, 12, users.max() + 1)
    noise = [np.random.default_rng(seed).integers(0, 2, len(users)) for seed in range(seeds)]
    return [record(np.maximum(1, (level[users] * scale).astype(np.int64) + n), users) for n in noise]


USERS = np.repeat(np.arange(40), 5)


def test_a_ratio_of_equals_is_one_without_width() -> None:
    own = seeds_of(1.0, USERS, 3)
    assert ratio(own, own) == Ratio(1.0, 1.0, 1.0)
    assert not ratio(own, own).reaches(1.0), "the lower bound must lie above 1"


def test_a_better_scorer_shows_with_its_interval() -> None:
    found = ratio(seeds_of(0.5, USERS, 3), seeds_of(1.0, USERS, 3))
    means = [np.mean([r.ndcg.mean() for r in seeds_of(scale, USERS, 3)]) for scale in (0.5, 1.0)]
    assert found.point == pytest.approx(means[0] / means[1])
    assert 1 < found.low < found.point < found.high
    assert found.reaches(found.point - 0.01)
    assert not found.reaches(found.point + 0.01)


def test_seeds_do_not_multiply_the_users() -> None:
    """Five seeds of the same users must not make the interval sqrt(5) times narrower."""
    one, five = (mean(seeds_of(1.0, USERS, seeds)) for seeds in (1, 5))
    assert five.high - five.low > 0.8 * (one.high - one.low)
    assert one.low < one.mean < one.high


def test_other_events_are_refused() -> None:
    own, other = seeds_of(1.0, USERS, 1), [seeds_of(1.0, USERS, 1)[0].where(USERS < 39)]
    with pytest.raises(ValueError, match="same timelines"):
        ratio(own, other)
    with pytest.raises(ValueError, match="same seeds"):
        ratio(own, own * 2)


def test_a_baseline_that_never_hits() -> None:
    good, bad = record(np.ones(10, np.int64), np.arange(10)), record(np.full(10, 99), np.arange(10))
    assert ratio([good], [bad]).low == np.inf
    assert np.isnan(ratio([bad], [bad]).point)
