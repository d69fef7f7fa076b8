"""Test then train: blocks, live histories, masking, and heuristics that see no event early."""

from __future__ import annotations

import numpy as np
import pytest

from catalogue.datasets.dataset import Rows, build
from catalogue.popularity import Popularity
from catalogue.replay import Timeline, timeline
from contracts.item import Item
from recommender.loading import Recommender
from recommender.prequential import frozen, heuristic
from recommender.ranking import ndcg, tied_ranks
from recommender.scoring import score_histories


@pytest.fixture(scope="module")
def line(items: list[Item]) -> Timeline:
    """Eight users, two events an instant, none of an item twice."""
    generator = np.random.default_rng(7)
    users, taken, times = [], [], []
    for user in range(8):
        for step, item in enumerate(generator.permutation(20)[:15]):
            users.append(f"u{user}")
            taken.append(f"i{item}")
            times.append(100 * (step // 2) + user)
    return timeline(build("blocks", "click", items, Rows(users, taken, np.array(times, np.int64))), seed=0)


def by_hand(line: Timeline, position: int) -> tuple[list[int], int]:
    """The items a user had before the instant of the event at `position`, and the event's item."""
    user, moment = line.user[position], line.timestamp[position]
    before = (line.user == user) & (line.timestamp < moment)
    return line.item[before].tolist(), int(line.item[position])


@pytest.mark.parametrize("mask_seen", [True, False])
def test_frozen_scores_each_event_from_the_state_before_its_block(
    mask_seen: bool, tiny: Recommender, line: Timeline
) -> None:
    outcomes = frozen(tiny, line, 40, mask_seen)
    assert outcomes.position.tolist() == list(range(40, len(line)))
    assert outcomes.user.tolist() == line.user[40:].tolist()
    for place, position in enumerate(outcomes.position):
        seen, target = by_hand(line, position)
        names = [line.dataset.item_ids[item] for item in seen]
        scores = score_histories(tiny, [names]).numpy()
        columns = [tiny.vocabulary.index[name] for name in names]
        target = tiny.vocabulary.index[line.dataset.item_ids[target]]
        ranks = tied_ranks(scores, np.array([0]), np.array([target]), [columns if mask_seen else []])
        assert outcomes.ndcg[place] == pytest.approx(ndcg(ranks)[0])


def test_a_heuristic_has_seen_everything_before_the_block_and_nothing_of_it(line: Timeline) -> None:
    outcomes = heuristic(Popularity.all_time(line.dataset.item_ids), line, 40)
    for place, position in enumerate(outcomes.position):
        seen, target = by_hand(line, position)
        start = np.flatnonzero(line.block == line.block[position])[0]
        counts = np.bincount(line.item[:start], minlength=20).astype(float)[None]
        ranks = tied_ranks(counts, np.array([0]), np.array([target]), [seen])
        assert outcomes.ndcg[place] == pytest.approx(ndcg(ranks)[0])
        assert 0 < outcomes.recall[place] <= 1 or outcomes.ndcg[place] == 0


def test_progress_counts_every_event(tiny: Recommender, line: Timeline) -> None:
    done: list[int] = []
    frozen(tiny, line, 40, on_progress=done.append)
    assert sum(done) == len(line) - 40
