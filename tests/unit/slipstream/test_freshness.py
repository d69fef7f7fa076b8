"""Freshness is the slowest replica's, and an event no release covers is never fresh."""

import numpy as np

from contracts.release import ReleaseKind, ReleaseManifest
from slipstream.demo.freshness import Acknowledged, Served, freshness_seconds


def _manifest(version: int, offsets: dict[int, int]) -> ReleaseManifest:
    return ReleaseManifest(
        model="m", version=version, kind=ReleaseKind.FULL, epoch=1, created_at=0.0, tensors={}, offsets=offsets
    )


MANIFESTS = {1: _manifest(1, {0: 10, 1: 10}), 2: _manifest(2, {0: 12, 1: 10}), 3: _manifest(3, {0: 12, 1: 11})}


def test_the_slowest_replica_counts() -> None:
    events = [Acknowledged(0, 10, 1.0), Acknowledged(0, 11, 1.5), Acknowledged(1, 10, 1.0)]
    answers = [Served("a", 1, 1.6), Served("a", 2, 2.0), Served("b", 1, 2.5), Served("b", 3, 4.0), Served("a", 3, 9.0)]
    assert freshness_seconds(events, answers, MANIFESTS).tolist() == [3.0, 2.5, 8.0]


def test_an_event_beyond_every_release_is_never_fresh() -> None:
    seconds = freshness_seconds([Acknowledged(0, 12, 0.0)], [Served("a", 3, 1.0)], MANIFESTS)
    assert np.isinf(seconds).all()


def test_no_answers_at_all_is_not_zero_seconds() -> None:
    assert np.isinf(freshness_seconds([Acknowledged(0, 1, 0.0)], [], MANIFESTS)).all()


def test_an_answer_before_the_202_arrived_counts_as_zero() -> None:
    assert freshness_seconds([Acknowledged(0, 11, 3.0)], [Served("a", 2, 2.0)], MANIFESTS).tolist() == [0.0]
