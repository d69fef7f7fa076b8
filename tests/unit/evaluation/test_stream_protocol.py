"""The protocol's points, each by a scorer that would gain if the point were broken."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from catalogue.datasets import Dataset
from catalogue.protocol import Block, births, is_first, leave_one_out
from catalogue.replay import split, timeline
from evaluation.scorer import Scorer
from evaluation.stream import leave_last_out, leave_out_training, prequential, time_split


def knows(block: Block, num_items: int) -> np.ndarray:
    """Scores of one who knows the block's items beforehand."""
    scores = np.zeros(num_items)
    scores[block.items] = 1.0
    return scores


def test_a_constant_scorer_scores_chance(walkers: Dataset, spy: type) -> None:
    line = timeline(walkers, 1)
    start = len(split(line, 0.8)[0])
    record = prequential(spy(40), line, start).masked
    born, expected = births(line), []
    gains = 1 / np.log2(np.arange(2, 12))
    for position in range(start, len(line)):
        first = position - (line.block[:position] == line.block[position]).sum()
        had = line.item[:first][line.user[:first] == line.user[position]]
        choice = int((born < first).sum()) - len(set(had.tolist()))
        expected.append(gains[:choice].sum() / choice)
    assert record.ndcg == pytest.approx(np.array(expected))
    assert 0 < record.ndcg.mean() < 0.25


def test_a_block_is_asked_from_the_state_before_it_then_learned(shoppers: Dataset, spy: type) -> None:
    line = timeline(shoppers, 2)
    start = len(split(line, 0.8)[0])
    scorer = spy(25)
    prequential(scorer, line, start)
    learned = start
    for kind, block in scorer.told:
        assert block.start == learned, "everything before the block has been learned, nothing of it"
        assert len(set(line.block[block.start : block.start + len(block.items)].tolist())) == 1
        earlier = line.user[: block.start] == block.user
        assert block.history.tolist() == line.item[: block.start][earlier].tolist()
        learned += len(block.items) if kind == "learn" else 0
    assert learned == len(line)


def test_batches_hold_whole_blocks_and_are_learned_after_all_of_them_were_asked(shoppers: Dataset, spy: type) -> None:
    line = timeline(shoppers, 2)
    scorer = spy(25, batch_events=40)
    outcome = prequential(scorer, line, len(split(line, 0.8)[0]))
    kinds = [kind for kind, _ in scorer.told]
    runs = 1 + sum(one != other for one, other in itertools.pairwise(kinds))
    assert runs % 2 == 0
    assert runs < len(kinds) / 5
    assert outcome.open is not None
    assert len(outcome.open) == 300


def test_seen_items_are_masked_and_where_people_buy_again_there_are_two_tables(shoppers: Dataset, spy: type) -> None:
    line = timeline(shoppers, 0)
    start = len(split(line, 0.8)[0])

    def loyal(block: Block) -> np.ndarray:
        return np.bincount(block.history, minlength=25).astype(float)

    outcome = prequential(spy(25, loyal), line, start)
    assert outcome.open is not None
    assert len(outcome.open) == len(line) - start
    first = is_first(line)[start:]
    assert len(outcome.masked) == first.sum() < 0.5 * len(first)
    repeats = outcome.open.where(~first)
    assert repeats.ndcg.mean() > 1.1 * prequential(spy(25), line, start).open.where(~first).ndcg.mean()  # type: ignore[union-attr]
    # With the seen items masked loyalty says nothing: every first purchase is a tie among what is left.
    assert outcome.masked.ndcg.tolist() == prequential(spy(25), line, start).masked.ndcg.tolist()


def test_an_unborn_item_is_a_miss_even_for_who_knows_it(walkers: Dataset, make_dataset: object, spy: type) -> None:
    rows = [(str(u), str(i), 100 * u + i) for u in range(30) for i in range(12)]
    rows += [("40", "77", 3_500), ("41", "77", 3_600)]
    data = make_dataset(rows)  # type: ignore[operator]
    line = timeline(data, 0)
    scorer = spy(13, lambda block: knows(block, 13))
    record = prequential(scorer, line, 300).masked
    late = record.position >= 360
    assert record.ndcg[~late].tolist() == [1.0] * 60
    assert record.ndcg[late].tolist() == [0.0, 1.0], "a miss at its birth, a hit the next time"
    split_record = time_split(scorer, line, 300).masked
    assert split_record.ndcg[late].tolist() == [0.0, 0.0], "offline the catalogue ends at the split"


def test_offline_nobody_learns_after_the_split_but_histories_go_on(walkers: Dataset, spy: type) -> None:
    line = timeline(walkers, 0)
    start = len(split(line, 0.8)[0])
    scorer = spy(40)
    time_split(scorer, line, start)
    assert {kind for kind, _ in scorer.told} == {"score"}
    last = scorer.told[-1][1]
    assert len(last.history) == 18
    assert set(last.history.tolist()) >= set(line.item[start:][line.user[start:] == last.user][:8].tolist())


def test_leave_one_out_asks_each_last_event_from_all_before_it(walkers: Dataset, spy: type) -> None:
    line = timeline(walkers, 0)
    held = leave_one_out(line)
    for validation, positions, history in ((False, held.test, 19), (True, held.validation, 18)):
        scorer: Scorer = spy(40, lambda block: knows(block, 40))
        record = leave_last_out(scorer, line, validation=validation).masked
        assert sorted(record.position.tolist()) == sorted(positions.tolist())
        assert record.ndcg.tolist() == [1.0] * 60
        assert {len(block.history) for _, block in scorer.told} == {history}  # type: ignore[attr-defined]
    training = leave_out_training(line)
    assert len(training) == len(line) - 120
    assert not set(training.order.tolist()) & set(line.order[np.concatenate([held.test, held.validation])].tolist())


def test_leave_one_out_refuses_repeats(shoppers: Dataset, spy: type) -> None:
    with pytest.raises(ValueError, match="split it by time"):
        leave_last_out(spy(25), timeline(shoppers, 0), validation=False)


def test_coverage_counts_what_stood_in_lists(walkers: Dataset, spy: type) -> None:
    line = timeline(walkers, 0)
    start = len(split(line, 0.8)[0])
    order = np.arange(40, 0, -1).astype(float)
    record = prequential(spy(40, lambda block: order), line, start).masked
    expected = set()
    for block in {b.start: b for _, b in self_blocks(spy, line, start)}.values():
        expected |= set([item for item in range(40) if item not in block.history][:10])
    assert set(np.flatnonzero(record.covered).tolist()) == expected


def self_blocks(spy: type, line: object, start: int) -> list[tuple[str, Block]]:
    """All blocks from `start` on."""
    scorer = spy(40)
    prequential(scorer, line, start)  # type: ignore[arg-type]
    return scorer.told  # type: ignore[no-any-return]
